"""Used by every wing: errors, overrides, signals, devices, atomic writes of files."""
