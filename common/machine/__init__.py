"""The machine: its cores, memory and precision, and the processes that share the work."""
