"""Whisper-shaped encoder with a vector quantizer, trained by speech recognition."""
