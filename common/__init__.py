"""What both stages need: configs, data, corruptions, encoders, the train loop, artifacts, tracking."""
