"""Events that were written in the transaction of what they tell of, and wait to be told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

EventType = Literal["START", "COMPLETE", "FAIL", "ABORT"]


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An event that still has to be told.

    Attributes:
        seq: Its place in the log of events.
        run_id: The run that it is about.
        type: What happened.
        at: When, ISO 8601 in UTC.
        num_attempts: How often telling it has failed.
    """

    seq: int
    run_id: str
    type: EventType
    at: str
    num_attempts: int


class Outbox(Protocol):
    """Events that were written in the transaction of what they tell of."""

    def due_events(self, *, limit: int = 100) -> Sequence[OutboxEntry]:
        """The oldest events that are to be told now, in order.

        Empty while the oldest one waits for its next attempt: events keep their order.
        """
        ...

    def event_told(self, seq: int) -> None:
        """Forget an event that was told."""
        ...

    def event_failed(self, seq: int, error: str, *, retry_in_s: float) -> None:
        """Keep an event for a later attempt."""
        ...

    def num_untold(self) -> int:
        """How many events wait."""
        ...
