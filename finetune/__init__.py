"""Transfer: freeze the encoder, then probe, embed or fine-tune it on labelled tasks."""
