"""Probes of images that have several labels each, from their data to their result."""
