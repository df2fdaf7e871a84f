"""``retouch runs``: the runs in a folder, whether they have finished, and their results.

headlines.py  the main number of a ``results.json``, read without importing torch
found.py      run folders below a folder, in frozen types
table.py      the same on the console
"""
