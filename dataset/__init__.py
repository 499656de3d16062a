"""Prepared data sets and own folders: what lies where, regions, and the order of batches."""
