"""Pretraining: learn an encoder from unlabeled images, for example by restoring damaged ones."""
