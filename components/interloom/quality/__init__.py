"""What must hold of each artifact, as expectations."""
