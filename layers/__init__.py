"""The decoder's layers and the selective scan; they take plain numbers, never a config."""
