"""Pretraining: fit an encoder on unlabeled images by restoring what was damaged."""
