"""The command line. Each verb imports what it needs when it is called."""

from interloom_flows.cli.application import main

__all__ = ["main"]
