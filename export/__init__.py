"""Animations as files that other programs open: curves, glTF, mesh sequences."""
