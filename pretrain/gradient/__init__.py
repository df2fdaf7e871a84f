"""Autoencoders trained by gradient descent: pretexts, decoders, and the objective that joins them to an encoder."""
