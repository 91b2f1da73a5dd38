"""The record of what ran, what it made and from what; its row decides what is published."""

from typing import Protocol

from interloom.ports.catalog.datasets import Alias, Datasets, DatasetVersion
from interloom.ports.catalog.governance import (
    AuditEntry,
    Block,
    BlockKind,
    Governance,
    Verdict,
    Verification,
)
from interloom.ports.catalog.leases import Lease, Leases
from interloom.ports.catalog.lineage import Checkpoint, Lineage, LineageEdge
from interloom.ports.catalog.outbox import EventType, Outbox, OutboxEntry
from interloom.ports.catalog.publishing import Publication, Publishing, StageHit
from interloom.ports.catalog.runs import (
    Metric,
    MixtureComponent,
    RunRecord,
    Runs,
    RunStart,
    RunState,
    Usage,
)

__all__ = [
    "Alias",
    "AuditEntry",
    "Block",
    "BlockKind",
    "Catalog",
    "Checkpoint",
    "DatasetVersion",
    "Datasets",
    "EventType",
    "Governance",
    "Lease",
    "Leases",
    "Lineage",
    "LineageEdge",
    "Metric",
    "MixtureComponent",
    "Outbox",
    "OutboxEntry",
    "Publication",
    "Publishing",
    "RunRecord",
    "RunStart",
    "RunState",
    "Runs",
    "StageHit",
    "Usage",
    "Verdict",
    "Verification",
]


class Catalog(Runs, Leases, Publishing, Datasets, Lineage, Governance, Outbox, Protocol):
    """Runs, artifacts, lineage, metrics, checks and leases; one short transaction a call."""

    def close(self) -> None:
        """Give connections back; nothing may be asked after it."""
        ...
