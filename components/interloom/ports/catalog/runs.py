"""Runs: what was begun, how it ended, what it measured and what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from interloom.ports.gate import CheckResult


class RunState(StrEnum):
    """Where a run is."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a run; ``step`` is None for a result and set for a point of a curve."""

    name: str
    value: float
    step: int | None = None


@dataclass(frozen=True, slots=True)
class RunStart:
    """A run that begins: a pipeline, or one stage of it (then ``parent_run_id`` is set).

    Attributes:
        run_id: From ``core.ids.new_run_id``.
        job: ``pipeline``, or the stage's name.
        recipe: The recipe's name; outputs are published under ``<recipe>/<stage>.<field>``.
        parent_run_id: The pipeline that this stage belongs to.
        stage_key: What the result depends on, for a stage.
        request_json: The stage's request, or the pipeline's whole recipe.
        code_digest: Of the stage's module closure.
        numeric_class: Image and device; within one, and for one number of ranks and threads, equal
            requests give equal bytes.
        num_ranks: Processes that execute the stage together.
        threads_per_rank: Of each of them.
    """

    run_id: str
    job: str
    recipe: str
    parent_run_id: str | None = None
    stage_key: str | None = None
    request_json: str = "{}"
    code_digest: str = ""
    numeric_class: str = ""
    num_ranks: int = 1
    threads_per_rank: int = 1


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run consumed.

    Attributes:
        wall_s: Elapsed seconds.
        cpu_s: Processor seconds over all ranks.
        peak_rss_bytes: Largest resident memory of one rank.
        node_kind: What it ran on, in the installation's words.
        num_gpus: Held for ``wall_s``.
        price: In the installation's currency.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    node_kind: str = ""
    num_gpus: int = 0
    price: float = 0.0

    @property
    def gpu_hours(self) -> float:
        """GPUs held, in hours."""
        return self.num_gpus * self.wall_s / 3600


@dataclass(frozen=True, slots=True)
class MixtureComponent:
    """One source of a mixture: tokens asked and drawn, and how often it was passed through."""

    source: str
    tokens_asked: int
    tokens_drawn: int
    epochs: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as queries show it. Times are ISO 8601 in UTC."""

    run_id: str
    job: str
    recipe: str
    state: RunState
    parent_run_id: str | None
    stage_key: str | None
    is_cache_hit: bool
    started_at: str
    ended_at: str | None
    error: str | None
    usage: Usage
    request_json: str
    code_digest: str = ""
    numeric_class: str = ""
    num_ranks: int = 1
    threads_per_rank: int = 1
    origin_run_id: str | None = None


class Runs(Protocol):
    """What was begun and how it ended."""

    def start_run(self, start: RunStart) -> None:
        """Record that a run begins.

        Raises:
            ConfigError: The recipe's or data set's name cannot be used.
        """
        ...

    def end_run(
        self,
        run_id: str,
        state: RunState,
        error: str | None = None,
        *,
        checks: Sequence[CheckResult] = (),
    ) -> None:
        """End a run that publishes nothing itself: a pipeline, or one that failed.

        ``checks`` are the verdicts that kept it from publishing.
        """
        ...

    def running(self) -> Sequence[RunRecord]:
        """The runs that have begun and not ended, oldest first."""
        ...

    def close_dead_runs(self, *, ttl_s: float, grace_s: float) -> int:
        """End as aborted the runs that nobody executes any more; returns how many.

        Args:
            ttl_s: A stage's run is dead when its lease's owner was silent for so long.
            grace_s: A pipeline's run is dead when none of its stages runs, and it was last heard of
                so long ago.
        """
        ...

    def runs(self, *, parent_run_id: str | None = None, limit: int = 100) -> Sequence[RunRecord]:
        """Pipelines, newest first; or the stages of one pipeline, in order."""
        ...

    def last_run(self, job: str, recipe: str) -> RunRecord | None:
        """The newest run of a recipe that completed a stage and did not reuse a result."""
        ...

    def run(self, run_id: str) -> RunRecord:
        """One run, by its id or an unambiguous prefix.

        Raises:
            MissingError: No run, or several, begin like this.
        """
        ...

    def metrics(self, run_id: str) -> Sequence[Metric]:
        """A stage run's metrics; for a run that reused a result, those of the original."""
        ...

    def results(self, run_id: str) -> Sequence[Metric]:
        """Those of the metrics that are no points of a curve: quick, however long it trained."""
        ...

    def run_checks(self, run_id: str) -> Sequence[CheckResult]:
        """The verdicts of a run, published or not."""
        ...

    def mixture(self, run_id: str) -> Sequence[MixtureComponent]:
        """The components of a mixture that a run, or the run that it reused, drew."""
        ...
