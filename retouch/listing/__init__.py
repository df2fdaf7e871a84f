"""``retouch runs``: the runs in a folder, whether they have finished, and their results.

headlines.py  the main number of a ``results.json``, read without importing torch
found.py      the run folders below a folder, as frozen types
table.py      the list on the console, and as JSON
"""
