"""Scores of a split or of folders of predictions, their tables, and scores from the literature."""
