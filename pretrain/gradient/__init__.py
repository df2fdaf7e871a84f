"""Autoencoders that learn by gradient: pretexts, decoders, and the objective that joins them to an encoder."""
