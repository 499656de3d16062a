"""Prepared data sets and own folders: their files, regions, faces, and the order of batches."""
