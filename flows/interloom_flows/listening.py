"""How a run tells whoever watches it what happens. Calls come from several threads."""

from contextvars import ContextVar
from typing import Protocol

from interloom.ports.progress import Progress


class RunListener(Protocol):
    """Told of each stage's beginning, progress and end."""

    def started(self, stage: str) -> Progress:
        """The stage will run; gives where it reports its progress."""
        ...

    def reused(self, stage: str) -> None:
        """The stage's result was there, and whole."""
        ...

    def finished(self, stage: str, wall_s: float) -> None:
        """The stage has run."""
        ...

    def failed(self, stage: str, error: BaseException) -> None:
        """The stage has failed; it may be tried again."""
        ...


LISTENER: ContextVar[RunListener] = ContextVar("interloom_run_listener")
"""Who watches the flow that is called next; a deployed flow has nobody and uses Prefect's log."""
