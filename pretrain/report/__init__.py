"""Reports of pretraining: panels, atoms, and the storage size of codes."""
