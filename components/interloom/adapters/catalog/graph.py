"""What was made from what, at any distance, and which artifacts hold a shard."""

from collections.abc import Sequence

from sqlalchemy import Column, select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import Room, ref_of
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import MissingError

_DIGITS = 64


class Graph(Room):
    """Queries along the edges from an artifact to its parents."""

    def resolve_artifact(self, artifact_id: str) -> ArtifactRef:
        """The published artifact whose id begins like this."""
        first, last = (artifact_id.lower().ljust(_DIGITS, digit) for digit in "0f")
        wanted = (
            select(t.artifact.c.kind, t.artifact.c.id)
            .where(t.artifact.c.id.between(first, last))
            .limit(2)
        )
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(wanted).mappings().all()
        if len(rows) != 1:
            found = "several artifacts begin" if rows else "no artifact begins"
            raise MissingError(f"{found} with {artifact_id!r}; list them with: interloom data list")
        return ref_of(rows[0])

    def artifacts(self, *, after: str = "", limit: int = 1000) -> Sequence[ArtifactRef]:
        """Published artifacts in order of id, beginning behind ``after``."""
        wanted = (
            select(t.artifact.c.kind, t.artifact.c.id)
            .where(t.artifact.c.id > after)
            .order_by(t.artifact.c.id)
            .limit(limit)
        )
        with self._database.transaction(writes=False) as connection:
            return [ref_of(row) for row in connection.execute(wanted).mappings()]

    def with_shard(self, sha256: str) -> Sequence[ArtifactRef]:
        """The artifacts that hold a shard with these bytes."""
        holders = select(t.shard.c.artifact_id).where(t.shard.c.sha256 == sha256)
        wanted = (
            select(t.artifact.c.kind, t.artifact.c.id)
            .where(t.artifact.c.id.in_(holders))
            .order_by(t.artifact.c.id)
        )
        with self._database.transaction(writes=False) as connection:
            return [ref_of(row) for row in connection.execute(wanted).mappings()]

    def children(self, artifacts: Sequence[ArtifactRef]) -> Sequence[ArtifactRef]:
        """What was made from these directly."""
        own = {ref.id for ref in artifacts}
        wanted = (
            select(t.artifact.c.kind, t.artifact.c.id)
            .join(t.artifact_parent, t.artifact_parent.c.artifact_id == t.artifact.c.id)
            .where(t.artifact_parent.c.parent_id.in_(own))
            .distinct()
            .order_by(t.artifact.c.id)
        )
        with self._database.transaction(writes=False) as connection:
            return [ref_of(row) for row in connection.execute(wanted).mappings()]

    def ancestors(self, artifacts: Sequence[ArtifactRef]) -> Sequence[ArtifactRef]:
        """Everything that these were made from."""
        return self._reached(
            artifacts, t.artifact_parent.c.artifact_id, t.artifact_parent.c.parent_id
        )

    def descendants(self, artifacts: Sequence[ArtifactRef]) -> Sequence[ArtifactRef]:
        """Everything that was made from these."""
        return self._reached(
            artifacts, t.artifact_parent.c.parent_id, t.artifact_parent.c.artifact_id
        )

    def _reached(
        self, artifacts: Sequence[ArtifactRef], start: "Column[str]", end: "Column[str]"
    ) -> Sequence[ArtifactRef]:
        """What edges lead to, in order of id; each artifact is visited once."""
        own = {ref.id for ref in artifacts}
        reached = select(end.label("id")).where(start.in_(own)).cte(recursive=True)
        reached = reached.union(select(end).where(start == reached.c.id))
        wanted = (
            select(t.artifact.c.kind, t.artifact.c.id)
            .join(reached, reached.c.id == t.artifact.c.id)
            .order_by(t.artifact.c.id)
        )
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(wanted).mappings()
            return [ref_of(row) for row in rows if row["id"] not in own]
