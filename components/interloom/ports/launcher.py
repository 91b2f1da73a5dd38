"""How a stage is executed in processes of its own."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from interloom.ports.progress import Progress
from interloom.ports.workspace import Part

LOG_FILE = "log.txt"
"""In a job's folder: what the stage's processes say."""


@dataclass(frozen=True, slots=True)
class StageJob:
    """One execution of one stage.

    Attributes:
        stage: Its name, as ``python -m interloom.stages NAME REQUEST`` takes it.
        request_json: All that the result depends on.
        folder: The stage's workspace, named by its stage key; survives a kill, holds checkpoints
            and the log.
        num_ranks: Processes that run it together; more than one goes through torchrun.
        threads_per_rank: Fixed by the recipe, since it is part of the numeric class.
        can_be_parted: Whether the stage's shards can be made apart, before it.
        part: Only make these shards; then the folder is the part's own, below the workspace.
    """

    stage: str
    request_json: str
    folder: Path
    num_ranks: int = 1
    threads_per_rank: int = 2
    can_be_parted: bool = False
    part: Part | None = None

    @property
    def workspace(self) -> Path:
        """Where shards lie."""
        return self.folder if self.part is None else self.folder.parents[1]

    @property
    def key(self) -> str:
        """The stage key."""
        return self.workspace.name

    def parts(self, count: int) -> tuple["StageJob", ...]:
        """So many jobs, which make all shards between them."""
        folder = self.folder / "parts"
        parts = [Part(index, count) for index in range(count)]
        return tuple(replace(self, folder=folder / str(one), part=one) for one in parts)


@dataclass(frozen=True, slots=True)
class JobReport:
    """What came of a job that succeeded.

    Attributes:
        result_json: The stage's result.
        wall_s: Elapsed seconds.
        cpu_s: Processor seconds over all ranks.
        peak_rss_bytes: Largest resident memory of one rank.
    """

    result_json: str
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


class Launcher(Protocol):
    """Runs stages: processes on this machine, or jobs on a cluster."""

    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        """Run the job to its end.

        Raises:
            ConfigError: The stage refused its request.
            DataError: The stage refused its input.
            TransientError: The process died or a resource was away.
        """
        ...

    def check(self, demand: Mapping[str, int]) -> None:
        """Find out whether stages would be taken, before anything is started for them.

        Args:
            demand: Stage name to number of ranks.

        Raises:
            ConfigError: A pool, right or namespace is missing, or a quota is too small.
            MissingError: The cluster does not know such jobs.
            TransientError: No cluster answers.
        """
        ...

    def pool(self, stage: str) -> str | None:
        """The pool of a cluster whose nodes a stage takes; None on this machine."""
        ...

    def stop(self, *, leaves_jobs: bool = False) -> None:
        """End every stage that runs, now; from any thread. Their ``run`` raises an interrupt.

        Args:
            leaves_jobs: This process goes, but another will take over: jobs on a cluster go on.
        """
        ...

    def reconcile(self, held: Collection[str], *, grace_s: float) -> int:
        """End the jobs that nobody waits for any more.

        Args:
            held: The stage keys whose lease is alive.
            grace_s: A job that was made so few seconds ago is left alone.

        Returns:
            How many stages were ended.
        """
        ...
