"""The record of what ran, what it made and from what; its row decides what is published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from interloom.core.artifacts import ArtifactRef, Manifest
from interloom.ports.gate import CheckResult

EventType = Literal["START", "COMPLETE", "FAIL", "ABORT"]


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
class StageHit:
    """A published result of a stage."""

    stage_key: str
    run_id: str
    result_json: str
    outputs: Mapping[str, ArtifactRef]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to execute one stage key. ``fence`` grows each time it changes hands."""

    stage_key: str
    owner: str
    fence: int


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
class Checkpoint:
    """Published weights, and the step of training that gave them."""

    run_id: str
    step: int
    artifact: ArtifactRef


@dataclass(frozen=True, slots=True)
class Publication:
    """All that becomes visible in one transaction when a stage is done."""

    run_id: str
    result_json: str
    inputs: Mapping[str, ArtifactRef]
    outputs: Mapping[str, ArtifactRef]
    manifests: Sequence[Manifest]
    metrics: Sequence[Metric] = ()
    checks: Sequence[CheckResult] = ()
    usage: Usage = field(default_factory=Usage)
    mixture: Sequence[MixtureComponent] = ()
    checkpoints: Mapping[int, ArtifactRef] = field(default_factory=dict)


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


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """A run read or wrote an artifact under a name."""

    run_id: str
    job: str
    name: str
    artifact: ArtifactRef
    is_output: bool


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One published artifact under a name: ``version`` counts from 1 for each name."""

    name: str
    version: int
    ref: ArtifactRef
    published_at: str
    num_bytes: int
    counts: Mapping[str, int]
    licences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that was given to a version, or taken away (then ``version`` is None)."""

    name: str
    alias: str
    version: int | None
    at: str
    who: str


class BlockKind(StrEnum):
    """By what data can be taken down."""

    SOURCE = "source"
    SPEAKER = "speaker"
    LICENCE = "licence"


@dataclass(frozen=True, slots=True)
class Block:
    """Data that may not be read any more."""

    kind: BlockKind
    value: str
    since: str
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that a person did and that changes what others may do."""

    at: str
    who: str
    action: str
    subject: str
    detail: Mapping[str, Any]


class Verdict(StrEnum):
    """What came of making an artifact a second time."""

    IDENTICAL = "identical"
    WITHIN_TOLERANCE = "within tolerance"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Verification:
    """An artifact was made again and compared."""

    artifact: ArtifactRef
    run_id: str
    at: str
    verdict: Verdict
    detail: str


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


class Governance(Protocol):
    """Who may read what, and what was checked: blocks, audit, verifications."""

    def block(self, blocks: Sequence[Block], detail: Mapping[str, Any]) -> None:
        """Add to the block list, with a row of audit each; what is blocked stays as it was."""
        ...

    def unblock(self, kind: BlockKind, value: str, who: str) -> bool:
        """Take one entry off the block list, with a row of audit; False if it was not on it."""
        ...

    def blocks(self) -> Sequence[Block]:
        """The block list, in order of kind and value."""
        ...

    def record_audit(self, entry: AuditEntry) -> None:
        """Append to the audit."""
        ...

    def audit(self, *, subject: str | None = None, limit: int = 100) -> Sequence[AuditEntry]:
        """The newest entries, of one subject or of all."""
        ...

    def record_verification(self, verification: Verification) -> None:
        """Append a verdict."""
        ...

    def verifications(self, artifact: ArtifactRef) -> Sequence[Verification]:
        """All verdicts on an artifact, oldest first."""
        ...


class Catalog(Governance, Outbox, Protocol):
    """Runs, artifacts, lineage, metrics, checks and leases; one short transaction a call."""

    def find(self, stage_key: str) -> StageHit | None:
        """The published result of a stage key, if there is one."""
        ...

    def acquire(
        self, stage_key: str, owner: str, *, ttl_s: float, dead_owner: str | None = None
    ) -> Lease | None:
        """Take the lease of a stage key; None while another owner's heartbeat is fresh.

        An owner that is known to be dead loses it at once.
        """
        ...

    def lease_owner(self, stage_key: str) -> str | None:
        """Who holds the lease of a stage key, fresh or not; None if nobody does."""
        ...

    def renew(self, lease: Lease) -> None:
        """Beat.

        Raises:
            LeaseLostError: Another owner has a higher fence.
        """
        ...

    def release(self, lease: Lease) -> None:
        """Give the lease back; nothing happens if it was lost."""
        ...

    def expire_leases(self, *, ttl_s: float) -> int:
        """Take leases from owners that were silent for so long; returns how many.

        Leases of runs that have ended are forgotten; those of stages keep their fence.
        """
        ...

    def leased(self, *, ttl_s: float) -> frozenset[str]:
        """The stage keys whose owner's heartbeat is fresh."""
        ...

    def start_run(self, start: RunStart) -> None:
        """Record that a run begins.

        Raises:
            ConfigError: The recipe's or data set's name cannot be used.
        """
        ...

    def publish(self, lease: Lease, publication: Publication) -> None:
        """Make a stage's outputs visible and end its run, in one transaction.

        Publishing the same run again changes nothing.

        Raises:
            LeaseLostError: The fence is no longer ours; nothing was written.
        """
        ...

    def record_hit(self, start: RunStart, hit: StageHit, inputs: Mapping[str, ArtifactRef]) -> None:
        """Record a run that reused ``hit``: a lineage run, complete at once."""
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

    def publish_dataset(self, name: str, manifest: Manifest, run_id: str) -> DatasetVersion:
        """Publish an artifact that no stage made, such as an ingested corpus, under a name."""
        ...

    def dataset(self, name: str, version: int | None = None) -> DatasetVersion:
        """A named version, the newest by default.

        Raises:
            MissingError: No such name or version; lists the nearest names.
        """
        ...

    def datasets(self) -> Sequence[DatasetVersion]:
        """All published versions, newest first."""
        ...

    def tag(self, name: str, alias: str, version: int | None, who: str) -> None:
        """Give a version of a name an alias, or take the alias away (``version`` is None).

        Raises:
            MissingError: No such name or version.
        """
        ...

    def aliased(self, name: str, alias: str) -> DatasetVersion:
        """The version that an alias of a name stands for.

        Raises:
            MissingError: No such name or alias; lists the aliases there are.
        """
        ...

    def aliases(self, name: str) -> Sequence[Alias]:
        """Every alias that was ever given or taken away, oldest first; the newest of each holds."""
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

    def checks(self, artifact: ArtifactRef) -> Sequence[CheckResult]:
        """The verdicts on an artifact."""
        ...

    def edges(self, run_ids: Sequence[str]) -> Sequence[LineageEdge]:
        """What these runs read and wrote."""
        ...

    def run_checks(self, run_id: str) -> Sequence[CheckResult]:
        """The verdicts of a run, published or not."""
        ...

    def mixture(self, run_id: str) -> Sequence[MixtureComponent]:
        """The components of a mixture that a run, or the run that it reused, drew."""
        ...

    def checkpoints(self, artifact: ArtifactRef) -> Sequence[Checkpoint]:
        """The steps of training that gave these weights."""
        ...

    def resolve_artifact(self, artifact_id: str) -> ArtifactRef:
        """The published artifact whose id begins like this.

        Raises:
            MissingError: No artifact, or several, begin like this.
        """
        ...

    def artifacts(self, *, after: str = "", limit: int = 1000) -> Sequence[ArtifactRef]:
        """Published artifacts in order of id, beginning behind ``after``."""
        ...

    def with_shard(self, sha256: str) -> Sequence[ArtifactRef]:
        """The artifacts that hold a shard with these bytes."""
        ...

    def children(self, artifacts: Sequence[ArtifactRef]) -> Sequence[ArtifactRef]:
        """What was made from these directly."""
        ...

    def ancestors(self, artifacts: Sequence[ArtifactRef]) -> Sequence[ArtifactRef]:
        """Everything that these were made from, at any distance; without themselves."""
        ...

    def descendants(self, artifacts: Sequence[ArtifactRef]) -> Sequence[ArtifactRef]:
        """Everything that was made from these, at any distance; without themselves."""
        ...

    def names(self, artifacts: Sequence[ArtifactRef]) -> Sequence[DatasetVersion]:
        """The named versions of these artifacts, in order of name and version."""
        ...

    def producer(self, artifact: ArtifactRef) -> str | None:
        """The run that first published an artifact."""
        ...

    def consumers(self, artifact: ArtifactRef) -> Sequence[str]:
        """The runs that read an artifact."""
        ...

    def close(self) -> None:
        """Give connections back; nothing may be asked after it."""
        ...

    def manifest(self, artifact: ArtifactRef) -> Manifest:
        """What a published artifact holds, as the catalog keeps it: the store may have lost it.

        Raises:
            MissingError: It is not published.
        """
        ...

    def facts(self, artifact: ArtifactRef) -> Mapping[str, Any]:
        """How an artifact was made, from its manifest."""
        ...
