"""Publishing: what becomes visible, in one transaction, and what is reused of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from interloom.core.artifacts import ArtifactRef, Manifest
from interloom.ports.catalog.datasets import DatasetVersion
from interloom.ports.catalog.leases import Lease
from interloom.ports.catalog.runs import Metric, MixtureComponent, RunStart, Usage
from interloom.ports.gate import CheckResult


@dataclass(frozen=True, slots=True)
class StageHit:
    """A published result of a stage."""

    stage_key: str
    run_id: str
    result_json: str
    outputs: Mapping[str, ArtifactRef]


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


class Publishing(Protocol):
    """Results by stage key, and artifacts that no stage made."""

    def find(self, stage_key: str) -> StageHit | None:
        """The published result of a stage key, if there is one."""
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

    def publish_dataset(self, name: str, manifest: Manifest, run_id: str) -> DatasetVersion:
        """Publish an artifact that no stage made, such as an ingested corpus, under a name."""
        ...
