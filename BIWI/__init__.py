"""Preparation of BIWI."""
