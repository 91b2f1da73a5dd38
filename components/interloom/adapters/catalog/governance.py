"""Who may read what, and what was checked: the block list, the audit and verifications."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import Room, insert_one, now_text
from interloom.core.artifacts import ArtifactRef
from interloom.ports.catalog import AuditEntry, Block, BlockKind, Verdict, Verification


class GovernanceRoom(Room):
    """Blocks, audit and verifications."""

    def block(self, blocks: Sequence[Block], detail: Mapping[str, Any]) -> None:
        """Add to the block list; what is on it already keeps its row."""
        with self._database.transaction() as connection:
            for block in blocks:
                row = {
                    "kind": block.kind.value,
                    "value": block.value,
                    "since": block.since,
                    "who": block.who,
                    "reason": block.reason,
                }
                insert_one(connection, t.block, row)
                subject = f"{block.kind}:{block.value}"
                entry = AuditEntry(
                    block.since, block.who, "takedown", subject, {**detail, "reason": block.reason}
                )
                _insert_audit(connection, entry)

    def unblock(self, kind: BlockKind, value: str, who: str) -> bool:
        """Take one entry off the block list."""
        with self._database.transaction() as connection:
            removed = connection.execute(
                sa.delete(t.block).where(t.block.c.kind == kind.value, t.block.c.value == value)
            )
            if removed.rowcount:
                entry = AuditEntry(now_text(), who, "lift takedown", f"{kind}:{value}", {})
                _insert_audit(connection, entry)
        return removed.rowcount == 1

    def blocks(self) -> Sequence[Block]:
        """The block list."""
        wanted = select(t.block).order_by(t.block.c.kind, t.block.c.value)
        with self._database.transaction(writes=False) as connection:
            return [
                Block(BlockKind(row["kind"]), row["value"], row["since"], row["who"], row["reason"])
                for row in connection.execute(wanted).mappings()
            ]

    def record_audit(self, entry: AuditEntry) -> None:
        """Append to the audit."""
        with self._database.transaction() as connection:
            _insert_audit(connection, entry)

    def audit(self, *, subject: str | None = None, limit: int = 100) -> Sequence[AuditEntry]:
        """The newest entries, newest first."""
        wanted = select(t.audit).order_by(t.audit.c.seq.desc()).limit(limit)
        if subject is not None:
            wanted = wanted.where(t.audit.c.subject == subject)
        with self._database.transaction(writes=False) as connection:
            return [
                AuditEntry(
                    row["at"],
                    row["who"],
                    row["action"],
                    row["subject"],
                    json.loads(row["detail_json"]),
                )
                for row in connection.execute(wanted).mappings()
            ]

    def record_verification(self, verification: Verification) -> None:
        """Append a verdict."""
        with self._database.transaction() as connection:
            connection.execute(
                sa.insert(t.verification).values(
                    artifact_id=verification.artifact.id,
                    run_id=verification.run_id,
                    at=verification.at,
                    verdict=verification.verdict.value,
                    detail=verification.detail,
                )
            )

    def verifications(self, artifact: ArtifactRef) -> Sequence[Verification]:
        """All verdicts on an artifact, oldest first."""
        wanted = (
            select(t.verification)
            .where(t.verification.c.artifact_id == artifact.id)
            .order_by(t.verification.c.seq)
        )
        with self._database.transaction(writes=False) as connection:
            return [
                Verification(
                    artifact, row["run_id"], row["at"], Verdict(row["verdict"]), row["detail"]
                )
                for row in connection.execute(wanted).mappings()
            ]


def _insert_audit(connection: Connection, entry: AuditEntry) -> None:
    connection.execute(
        sa.insert(t.audit).values(
            at=entry.at,
            who=entry.who,
            action=entry.action,
            subject=entry.subject,
            detail_json=json.dumps(dict(entry.detail), sort_keys=True),
        )
    )
