"""What can be done with published data: check, heal, copy, clean up, compare."""
