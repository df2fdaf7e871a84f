"""Transfer: freeze the encoder, then probe, embed or fine-tune it on labeled tasks."""
