"""What was made from what, by which run, with what numbers and verdicts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table, select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import Room, ref_of
from interloom.core.artifacts import ArtifactRef, Manifest
from interloom.core.errors import MissingError
from interloom.ports.catalog import LineageEdge, Metric
from interloom.ports.gate import CheckResult


class Lineage(Room):
    """Queries about edges between runs and artifacts, metrics and checks."""

    def metrics(self, run_id: str) -> Sequence[Metric]:
        """A stage run's metrics, or those of the run that it reused."""
        origin = select(sa.func.coalesce(t.run.c.origin_run_id, t.run.c.id)).where(
            t.run.c.id == run_id
        )
        wanted = (
            select(t.metric)
            .where(t.metric.c.run_id == origin.scalar_subquery())
            .order_by(t.metric.c.position)
        )
        with self._database.transaction(writes=False) as connection:
            return [
                Metric(
                    row["name"],
                    math.nan if row["value"] is None else row["value"],
                    row["step"],
                )
                for row in connection.execute(wanted).mappings()
            ]

    def checks(self, artifact: ArtifactRef) -> Sequence[CheckResult]:
        """The verdicts of the run that first published an artifact."""
        wanted = (
            select(t.check_result)
            .join(t.artifact, t.artifact.c.producer_run_id == t.check_result.c.run_id)
            .where(t.artifact.c.id == artifact.id)
            .order_by(t.check_result.c.position)
        )
        with self._database.transaction(writes=False) as connection:
            return [
                CheckResult(
                    suite=row["suite"],
                    expectation=row["expectation"],
                    success=row["success"],
                    observed=row["observed"],
                    failed_rows=tuple(json.loads(row["failed_rows_json"])),
                    severity=row["severity"],
                )
                for row in connection.execute(wanted).mappings()
            ]

    def edges(self, run_ids: Sequence[str]) -> Sequence[LineageEdge]:
        """What these runs read and wrote."""
        with self._database.transaction(writes=False) as connection:
            return [
                LineageEdge(
                    run_id=row["run_id"],
                    job=row["job"],
                    name=row["name"],
                    artifact=ref_of(row),
                    is_output=is_output,
                )
                for table, is_output in ((t.run_input, False), (t.run_output, True))
                for row in connection.execute(_edges(table, run_ids)).mappings()
            ]

    def producer(self, artifact: ArtifactRef) -> str | None:
        """The run that first published an artifact."""
        wanted = select(t.artifact.c.producer_run_id).where(t.artifact.c.id == artifact.id)
        with self._database.transaction(writes=False) as connection:
            return connection.execute(wanted).scalar_one_or_none()

    def consumers(self, artifact: ArtifactRef) -> Sequence[str]:
        """The runs that read an artifact, in order."""
        wanted = (
            select(t.run_input.c.run_id)
            .where(t.run_input.c.artifact_id == artifact.id)
            .distinct()
            .order_by(t.run_input.c.run_id)
        )
        with self._database.transaction(writes=False) as connection:
            return connection.execute(wanted).scalars().all()

    def facts(self, artifact: ArtifactRef) -> Mapping[str, Any]:
        """How an artifact was made, from its manifest.

        Raises:
            MissingError: It is not published.
        """
        wanted = select(t.artifact.c.manifest_json).where(t.artifact.c.id == artifact.id)
        with self._database.transaction(writes=False) as connection:
            manifest_json = connection.execute(wanted).scalar_one_or_none()
        if manifest_json is None:
            raise MissingError(f"{artifact} is not published")
        return Manifest.from_json(manifest_json.encode()).facts


def _edges(table: Table, run_ids: Sequence[str]) -> sa.Select[Any]:
    return (
        select(
            table.c.run_id,
            table.c.name,
            t.job.c.name.label("job"),
            t.artifact.c.kind,
            t.artifact.c.id,
        )
        .join(t.run, t.run.c.id == table.c.run_id)
        .join(t.job, t.job.c.id == t.run.c.job_id)
        .join(t.artifact, t.artifact.c.id == table.c.artifact_id)
        .where(table.c.run_id.in_(run_ids))
        .order_by(table.c.run_id, table.c.name)
    )
