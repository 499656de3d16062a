"""The CC0 head, the speech corpus and the shipped model."""
