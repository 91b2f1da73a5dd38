"""How a run tells whoever watches it what happens. Calls come from several threads."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from interloom.bootstrap import Services
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


@dataclass(frozen=True, slots=True)
class Caller:
    """What the caller of a flow in this process shares with it.

    Attributes:
        services: Open already, and closed by the caller.
        listener: Watches the run.
    """

    services: Services
    listener: RunListener


CALLER: ContextVar[Caller] = ContextVar("interloom_caller")
"""Who calls the flow; a deployed flow has nobody, opens its own services and uses Prefect's log."""
