"""One page with the findings of some runs: ``retouch report RUN... -o report.html``.

facts.py      what is read from run folders, in frozen types
compare.py    which differences are shown, with Holm's correction
sentences.py  facts in plain English: the question, the verdict
limits.py     what they do not show
tables.py     facts as tables: results and choices; run_tables.py: data, codes, cost, origins
confidence.py how far the confidence of answers can be trusted
layers.py     what the search shows about layers and poolings
places.py     where an encoder puts the test images; places_part.py: the part of the page about it
charts.py     facts as SVG
pictures.py   images as data URIs
blocks.py     the blocks that parts of the page consist of
study.py      the part about a study
parts.py      the parts, in the order of the page
page.py       parts as HTML (page.html.jinja), and the file
card.py       some of the parts as Markdown: a model card
"""
