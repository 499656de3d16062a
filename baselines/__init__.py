"""Decoders of other systems, written from their papers, in place of JambaTalk's decoder layers.

Encoder, projection, final norm, vertex head, losses and training loop are JambaTalk's. Each module
lists how it differs from the original system.
"""
