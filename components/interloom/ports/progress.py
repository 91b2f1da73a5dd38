"""How long work tells how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Receives positions. Calls are cheap; the receiver decides how often to show them."""

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Say that ``done`` of ``total`` units are complete; ``note`` is a loss or a rate."""
        ...


class NoProgress:
    """Shows nothing."""

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Ignore it."""
