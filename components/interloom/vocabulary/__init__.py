"""The joint vocabulary: text ids, then markers, then speech codes. Integers, never strings."""
