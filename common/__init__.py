"""Errors, overrides, signals, devices and whole files: what every other wing uses."""
