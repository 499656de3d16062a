"""Untrusted files read to plain arrays, model files, and the disk cache of computed arrays."""
