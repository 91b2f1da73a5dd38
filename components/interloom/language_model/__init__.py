"""The decoder language model over the joint vocabulary."""
