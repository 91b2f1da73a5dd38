"""Text to speech tokens, without audio."""
