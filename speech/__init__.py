"""Recordings to 16 kHz audio, audio to features, and the pre-trained encoders."""
