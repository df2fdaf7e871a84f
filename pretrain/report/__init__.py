"""What pretraining shows besides numbers: panels, atoms, and what a code takes to store."""
