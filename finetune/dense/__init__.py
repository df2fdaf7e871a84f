"""Masks: data, passes of the encoder, fits, scores, null check."""
