"""What was made from what, by which run, with what numbers and verdicts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping, Table, select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import Room, ref_of
from interloom.core.artifacts import ArtifactRef, Manifest
from interloom.core.errors import MissingError
from interloom.ports.catalog import Checkpoint, LineageEdge, Metric, MixtureComponent
from interloom.ports.gate import CheckResult


class Lineage(Room):
    """Queries about edges between runs and artifacts, metrics and checks."""

    def metrics(self, run_id: str) -> Sequence[Metric]:
        """A stage run's metrics, or those of the run that it reused."""
        return self._metrics(t.metric.c.run_id == _origin(run_id))

    def results(self, run_id: str) -> Sequence[Metric]:
        """Those without a step, by an index of their own."""
        return self._metrics(t.metric.c.run_id == _origin(run_id), t.metric.c.step.is_(None))

    def _metrics(self, *conditions: sa.ColumnElement[bool]) -> Sequence[Metric]:
        wanted = select(t.metric).where(*conditions).order_by(t.metric.c.position)
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
            return [_check(row) for row in connection.execute(wanted).mappings()]

    def run_checks(self, run_id: str) -> Sequence[CheckResult]:
        """The verdicts of a run, published or not."""
        wanted = (
            select(t.check_result)
            .where(t.check_result.c.run_id == run_id)
            .order_by(t.check_result.c.position)
        )
        with self._database.transaction(writes=False) as connection:
            return [_check(row) for row in connection.execute(wanted).mappings()]

    def mixture(self, run_id: str) -> Sequence[MixtureComponent]:
        """The components of the mixture that a run, or the run that it reused, drew."""
        held = t.mixture_component
        wanted = select(held).where(held.c.run_id == _origin(run_id)).order_by(held.c.source)
        with self._database.transaction(writes=False) as connection:
            return [
                MixtureComponent(
                    row["source"], row["tokens_asked"], row["tokens_drawn"], row["epochs"]
                )
                for row in connection.execute(wanted).mappings()
            ]

    def checkpoints(self, artifact: ArtifactRef) -> Sequence[Checkpoint]:
        """The steps of training that gave these weights."""
        wanted = (
            select(t.checkpoint)
            .where(t.checkpoint.c.artifact_id == artifact.id)
            .order_by(t.checkpoint.c.run_id, t.checkpoint.c.step)
        )
        with self._database.transaction(writes=False) as connection:
            return [
                Checkpoint(row["run_id"], row["step"], artifact)
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
        return self.manifest(artifact).facts

    def manifest(self, artifact: ArtifactRef) -> Manifest:
        """What a published artifact holds.

        Raises:
            MissingError: It is not published.
        """
        wanted = select(t.artifact.c.manifest_json).where(t.artifact.c.id == artifact.id)
        with self._database.transaction(writes=False) as connection:
            manifest_json = connection.execute(wanted).scalar_one_or_none()
        if manifest_json is None:
            raise MissingError(f"{artifact} is not published")
        return Manifest.from_json(manifest_json.encode())


def _origin(run_id: str) -> sa.ScalarSelect[Any]:
    """The run whose result a run shows: another's if it reused that, else its own."""
    return (
        select(sa.func.coalesce(t.run.c.origin_run_id, t.run.c.id))
        .where(t.run.c.id == run_id)
        .scalar_subquery()
    )


def _check(row: RowMapping) -> CheckResult:
    return CheckResult(
        suite=row["suite"],
        expectation=row["expectation"],
        success=row["success"],
        observed=row["observed"],
        failed_rows=tuple(json.loads(row["failed_rows_json"])),
        severity=row["severity"],
    )


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
