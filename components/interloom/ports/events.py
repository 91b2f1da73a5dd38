"""Telling the world of runs: events out of the outbox, into a lineage sink."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from interloom.core.artifacts import Manifest
from interloom.ports.catalog import EventType, MixtureComponent, RunRecord
from interloom.ports.gate import CheckResult


@dataclass(frozen=True, slots=True)
class EventDataset:
    """An artifact at one end of a run.

    Attributes:
        name: As it is published, ``recipe/stage.field``; else its kind and id.
        version: Of that name; None without one.
        manifest: What it holds.
        step: Of training, for weights.
    """

    name: str
    version: int | None
    manifest: Manifest
    step: int | None = None


@dataclass(frozen=True, slots=True)
class LineageEvent:
    """An event with all that a sink may want to know of its run.

    Attributes:
        type: What happened.
        at: When.
        run: The run.
        parent: The pipeline that it belongs to.
        inputs: What it read; empty while it runs.
        outputs: What it wrote or reused.
        mixture: What it mixed.
        checks: The verdicts on what it made.
    """

    type: EventType
    at: str
    run: RunRecord
    parent: RunRecord | None = None
    inputs: Sequence[EventDataset] = ()
    outputs: Sequence[EventDataset] = ()
    mixture: Sequence[MixtureComponent] = ()
    checks: Sequence[CheckResult] = ()


class EventSink(Protocol):
    """Somewhere that wants events."""

    def tell(self, event: LineageEvent) -> None:
        """Tell one event.

        Raises:
            TransientError: The sink did not take it.
        """
        ...
