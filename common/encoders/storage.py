"""What a code takes to store, uncompressed."""

ENTRY_BYTES = 4  # per entry of a dense code: float32
NONZERO_BYTES = 8  # per non-zero of a sparse code: a float32 value and its int32 index
