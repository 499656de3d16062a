"""The flags of demo.py and what they do to recordings, motion and files."""
