"""Lineage: what was made from what, by which run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from interloom.core.artifacts import ArtifactRef, Manifest
from interloom.ports.gate import CheckResult


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """A run read or wrote an artifact under a name."""

    run_id: str
    job: str
    name: str
    artifact: ArtifactRef
    is_output: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Published weights, and the step of training that gave them."""

    run_id: str
    step: int
    artifact: ArtifactRef


class Lineage(Protocol):
    """Published artifacts, and the way from each to those it was made from and into."""

    def edges(self, run_ids: Sequence[str]) -> Sequence[LineageEdge]:
        """What these runs read and wrote."""
        ...

    def checks(self, artifact: ArtifactRef) -> Sequence[CheckResult]:
        """The verdicts on an artifact."""
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

    def producer(self, artifact: ArtifactRef) -> str | None:
        """The run that first published an artifact."""
        ...

    def consumers(self, artifact: ArtifactRef) -> Sequence[str]:
        """The runs that read an artifact."""
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
