"""Bytes from disk, read with suspicion, to plain arrays; the cache of computed arrays."""
