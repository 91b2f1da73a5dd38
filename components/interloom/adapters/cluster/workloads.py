"""What runs a stage on the cluster, as the launcher sees it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from interloom.adapters.cluster.manifests import Attempt
from interloom.adapters.cluster.pods import Waiting
from interloom.ports.launcher import StageJob


class Phase(StrEnum):
    """Where an attempt is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Sight:
    """What the cluster shows of an attempt.

    Attributes:
        phase: Where it is as a whole.
        pods: All of its pods, as JSON.
        note: Why it is queued.
        waiting: What keeps pods from being made.
    """

    phase: Phase
    pods: Sequence[Mapping[str, Any]] = ()
    note: str = ""
    waiting: Sequence[Waiting] = ()


class Workloads(Protocol):
    """Plain jobs or train jobs."""

    heals_itself: bool
    """Whether the cluster makes lost ranks anew, all of them at once."""

    def preflight(self, job: StageJob, attempt: Attempt, *, is_alone: bool = False) -> None:
        """Find out, before anything is held, whether the cluster would take the stage.

        Args:
            job: The stage.
            attempt: Which try.
            is_alone: Leave aside what others use of a quota: they may be done by then.

        Raises:
            ConfigError: It would not: a right, a quota, the namespace or a field.
            MissingError: It does not know such jobs.
        """
        ...

    def newest(self, job: StageJob) -> tuple[int, Phase] | None:
        """The newest attempt that the cluster knows of, and where it is."""
        ...

    def start(self, job: StageJob, attempt: Attempt) -> None:
        """Make what is not there yet."""
        ...

    def look(self, job: StageJob, number: int) -> Sight:
        """What the cluster shows of an attempt."""
        ...

    def remove(self, job: StageJob, number: int) -> None:
        """Take an attempt away, with its pods."""
        ...

    def end_orphans(self, held: Collection[str], *, grace_s: float) -> int:
        """End what belongs to no stage key of ``held``; returns how many stages."""
        ...
