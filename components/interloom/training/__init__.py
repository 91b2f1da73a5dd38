"""The one training loop: schedule, checkpoint, exact resume, metrics."""
