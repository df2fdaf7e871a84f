"""How tables write yes, no and missing values."""

from __future__ import annotations

YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
# how programs write that there is no label; `none` in lower case may be a class
MISSING = ("", "NaN", "nan", "None", "NULL", "null", "NA", "na", "N/A", "n/a", "<NA>", "#N/A")
