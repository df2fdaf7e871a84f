"""``retouch runs``: which runs there are, whether they have finished, and what came out.

headlines.py  the number that a ``results.json`` is about, read without importing torch
found.py      run folders below a folder, in frozen types
table.py      the same on the console
"""
