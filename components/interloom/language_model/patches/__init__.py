"""Latent speech patches: the large model sees several speech tokens as one position (LST)."""
