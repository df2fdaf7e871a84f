"""The engine: the training loop, what one step does to a model, checkpoints and schedules."""
