"""Fakes of the ports, for our tests and for those of whoever builds on us."""
