"""Scores of a split or of anybody's predictions, their tables and the published ones."""
