"""Choose spans, weave speech tokens into text, check alignment."""
