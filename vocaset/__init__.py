"""Preparation of VOCASET."""
