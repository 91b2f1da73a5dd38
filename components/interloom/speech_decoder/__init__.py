"""Speech tokens to mel to waveform."""
