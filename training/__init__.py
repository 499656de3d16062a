"""A training run: objective, optimizer, state on disk, logs, previews."""
