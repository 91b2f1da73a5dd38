"""Publishing: all that a stage made becomes visible in one transaction, or nothing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy import Connection, Table, select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import (
    NAMESPACE,
    Room,
    insert_new,
    insert_one,
    now_text,
    ref_of,
)
from interloom.adapters.catalog.datasets import dataset_version, is_named, versions
from interloom.adapters.catalog.leases import hold
from interloom.adapters.catalog.runs import end_run_in, insert_checks, insert_run, require_name
from interloom.core.artifacts import ArtifactRef, Manifest
from interloom.ports.catalog import (
    DatasetVersion,
    Lease,
    Metric,
    MixtureComponent,
    Publication,
    RunStart,
    RunState,
    StageHit,
)

_FIND = (  # built once: a plan asks it for every stage
    select(
        t.stage_result.c.run_id,
        t.stage_result.c.result_json,
        t.run_output.c.name,
        t.artifact.c.kind,
        t.artifact.c.id,
    )
    .outerjoin(t.run_output, t.run_output.c.run_id == t.stage_result.c.run_id)
    .outerjoin(t.artifact, t.artifact.c.id == t.run_output.c.artifact_id)
    .where(t.stage_result.c.stage_key == sa.bindparam("stage_key"))
    .order_by(t.run_output.c.name)
)


class Publishing(Room):
    """Results of stages and named versions: written once, all or nothing."""

    def find(self, stage_key: str) -> StageHit | None:
        """The published result of a stage key, in one query by primary keys."""
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(_FIND, {"stage_key": stage_key}).mappings().all()
        if not rows:
            return None
        outputs = {row["name"]: ref_of(row) for row in rows if row["name"] is not None}
        return StageHit(stage_key, rows[0]["run_id"], rows[0]["result_json"], outputs)

    def publish(self, lease: Lease, publication: Publication) -> None:
        """Make everything visible in one transaction, if the lease is still ours."""
        run_id, now = publication.run_id, now_text()
        with self._database.transaction() as connection:
            if _is_published(connection, lease.stage_key, run_id):
                return  # an earlier call came through, though its answer was lost
            hold(connection, lease)
            for manifest in publication.manifests:
                _insert_artifact(connection, manifest, run_id, now)
            _insert_edges(connection, t.run_input, run_id, publication.inputs)
            _insert_edges(connection, t.run_output, run_id, publication.outputs)
            _name_outputs(connection, run_id, publication.outputs, now)
            _insert_metrics(connection, run_id, publication.metrics)
            insert_checks(connection, run_id, publication.checks)
            _insert_mixture(connection, run_id, publication.mixture)
            _insert_checkpoints(connection, run_id, publication.checkpoints)
            usage = asdict(publication.usage)
            connection.execute(sa.insert(t.usage).values(run_id=run_id, **usage))
            connection.execute(
                sa.delete(t.stage_result).where(t.stage_result.c.stage_key == lease.stage_key)
            )
            connection.execute(
                sa.insert(t.stage_result).values(
                    stage_key=lease.stage_key, run_id=run_id, result_json=publication.result_json
                )
            )
            end_run_in(connection, run_id, RunState.COMPLETE, None, now)

    def record_hit(self, start: RunStart, hit: StageHit, inputs: Mapping[str, ArtifactRef]) -> None:
        """Record a run that reused ``hit``; its outputs get their names in this recipe too."""
        now = now_text()
        with self._database.transaction() as connection:
            insert_run(connection, start, RunState.COMPLETE, origin_run_id=hit.run_id)
            _insert_edges(connection, t.run_input, start.run_id, inputs)
            _insert_edges(connection, t.run_output, start.run_id, hit.outputs)
            _name_outputs(connection, start.run_id, hit.outputs, now)

    def publish_dataset(self, name: str, manifest: Manifest, run_id: str) -> DatasetVersion:
        """Publish an artifact under a name; the same content keeps its version."""
        require_name(name)
        now = now_text()
        with self._database.transaction() as connection:
            _insert_artifact(connection, manifest, run_id, now)
            _insert_edges(connection, t.run_output, run_id, {name.rpartition("/")[2]: manifest.ref})
            _name_version(connection, name, manifest.ref, run_id, now)
            rows = connection.execute(
                versions().where(is_named(name), t.dataset_version.c.artifact_id == manifest.ref.id)
            )
            return dataset_version(connection, rows.mappings().one())


def _is_published(connection: Connection, stage_key: str, run_id: str) -> bool:
    made_by = select(t.stage_result.c.run_id).where(t.stage_result.c.stage_key == stage_key)
    return connection.execute(made_by).scalar() == run_id


def _insert_artifact(connection: Connection, manifest: Manifest, run_id: str, now: str) -> None:
    """Publish an artifact, unless it is published already."""
    artifact_id = manifest.ref.id
    counts: dict[str, int] = {}
    for shard in manifest.shards:
        for name, value in shard.counts.items():
            counts[name] = counts.get(name, 0) + value
    row = {
        "id": artifact_id,
        "kind": manifest.kind.value,
        "manifest_json": manifest.to_json().decode(),
        "num_bytes": sum(shard.num_bytes for shard in manifest.shards),
        "counts_json": json.dumps(counts, sort_keys=True),
        "producer_run_id": run_id,
        "published_at": now,
    }
    if not insert_one(connection, t.artifact, row):
        return
    shards = [
        {
            "artifact_id": artifact_id,
            "path": shard.path,
            "sha256": shard.sha256,
            "md5": shard.md5,
            "num_bytes": shard.num_bytes,
        }
        for shard in manifest.shards
    ]
    insert_new(connection, t.shard, shards)
    tags = [{"artifact_id": artifact_id, "tag": tag} for tag in sorted(set(manifest.licences))]
    insert_new(connection, t.licence_tag, tags)
    parents = [{"artifact_id": artifact_id, "parent_id": ref.id} for ref in set(manifest.parents)]
    insert_new(connection, t.artifact_parent, parents)


def _insert_edges(
    connection: Connection, table: Table, run_id: str, refs: Mapping[str, ArtifactRef]
) -> None:
    rows = [{"run_id": run_id, "name": name, "artifact_id": ref.id} for name, ref in refs.items()]
    insert_new(connection, table, rows)


def _name_outputs(
    connection: Connection, run_id: str, outputs: Mapping[str, ArtifactRef], now: str
) -> None:
    """Give each output its version under ``<recipe>/<stage>.<field>``."""
    wanted = select(t.run.c.recipe, t.job.c.name).join(t.job).where(t.run.c.id == run_id)
    recipe, stage = connection.execute(wanted).one()
    for field, ref in outputs.items():
        _name_version(connection, f"{recipe}/{stage}.{field}", ref, run_id, now)


def _name_version(
    connection: Connection, name: str, ref: ArtifactRef, run_id: str, now: str
) -> None:
    """Add a version to a name, unless the name has this content already."""
    kind = "MODEL" if ref.kind.is_model else "DATASET"
    insert_new(connection, t.dataset, [{"namespace": NAMESPACE, "name": name, "type": kind}])
    dataset_id = connection.execute(
        select(t.dataset.c.id).where(is_named(name)).with_for_update()
    ).scalar_one()
    held = select(t.dataset_version.c.version).where(
        t.dataset_version.c.dataset_id == dataset_id, t.dataset_version.c.artifact_id == ref.id
    )
    if connection.execute(held).first() is not None:
        return
    newest = select(sa.func.max(t.dataset_version.c.version)).where(
        t.dataset_version.c.dataset_id == dataset_id
    )
    connection.execute(
        sa.insert(t.dataset_version).values(
            dataset_id=dataset_id,
            version=(connection.execute(newest).scalar() or 0) + 1,
            artifact_id=ref.id,
            run_id=run_id,
            published_at=now,
        )
    )


def _insert_metrics(connection: Connection, run_id: str, metrics: Sequence[Metric]) -> None:
    rows = [
        {
            "run_id": run_id,
            "position": position,
            "name": metric.name,
            "step": metric.step,
            "value": metric.value if math.isfinite(metric.value) else None,
        }
        for position, metric in enumerate(metrics)
    ]
    insert_new(connection, t.metric, rows)


def _insert_mixture(
    connection: Connection, run_id: str, components: Sequence[MixtureComponent]
) -> None:
    rows = [{"run_id": run_id, **asdict(component)} for component in components]
    insert_new(connection, t.mixture_component, rows)


def _insert_checkpoints(
    connection: Connection, run_id: str, checkpoints: Mapping[int, ArtifactRef]
) -> None:
    rows = [
        {"run_id": run_id, "step": step, "artifact_id": ref.id} for step, ref in checkpoints.items()
    ]
    insert_new(connection, t.checkpoint, rows)
