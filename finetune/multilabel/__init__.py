"""Several labels per image: data, task, null check, and the scores on disk."""
