"""Governance: who may read what, and what was checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from interloom.core.artifacts import ArtifactRef


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
