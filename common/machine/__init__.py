"""The machine: cores, memory, precision, and the processes that share the work."""
