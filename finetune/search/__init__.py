"""``retouch search``: the images most like some query images, as a frozen encoder sees them.

config.py   its settings
nearest.py  the nearest rows of a matrix, exactly
sheet.py    queries and what was found, as one picture
run.py      the stage
"""
