"""The published checkpoints and the network that they need."""
