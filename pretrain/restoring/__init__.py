"""The kept decoder on new pictures: ``retouch restore`` and ``retouch strange``.

config.py     the settings of both
tiles.py      pictures of any size by overlapping tiles, strip by strip
restorer.py   ``open_restorer``: the network of a run, for pictures of any size
pictures.py   pictures at their own resolution, with their holes and clean versions, and where results are written
scores.py     PSNR and SSIM of written pictures
restore.py    the stage ``restore``
strange.py    the stage ``strange``: trials, the ranking, and how hard pictures are
sheets.py     what both draw
results.py    what both return
"""
