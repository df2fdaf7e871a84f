"""``retouch predict``: a probe's classifier, or a fine-tuned network, on new images."""
