"""Meshes to frames and frames to video."""
