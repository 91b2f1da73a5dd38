"""Waveforms and log-mel."""
