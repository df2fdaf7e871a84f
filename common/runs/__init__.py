"""Run folders and what they record: logs, metrics, W&B."""
