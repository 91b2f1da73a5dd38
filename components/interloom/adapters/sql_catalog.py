"""The catalog over SQLAlchemy: SQLite on one machine, PostgreSQL on a cluster.

One short transaction a call. On SQLite a transaction that writes begins as ``IMMEDIATE``, so that
it waits for its turn at the start and never fails half-way.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, RowMapping, Table, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from interloom.adapters import catalog_tables as t
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest
from interloom.core.errors import ConfigError, LeaseLostError, MissingError, TransientError
from interloom.ports.catalog import (
    DatasetVersion,
    Lease,
    LineageEdge,
    Metric,
    Publication,
    RunRecord,
    RunStart,
    RunState,
    StageHit,
    Usage,
)
from interloom.ports.gate import CheckResult

_NAMESPACE = "interloom"
_EVENTS = {
    RunState.RUNNING: "START",
    RunState.COMPLETE: "COMPLETE",
    RunState.FAILED: "FAIL",
    RunState.ABORTED: "ABORT",
}


class SqlCatalog:
    """A ``Catalog`` in a relational database; safe for any number of threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def connect(cls, url: str) -> "SqlCatalog":
        """Open the catalog at a SQLAlchemy URL.

        A SQLite file is made and migrated if need be; a PostgreSQL schema is only checked.

        Raises:
            ConfigError: The URL or the file cannot be used, or the schema is of another version.
            TransientError: The database does not answer.
        """
        catalog = cls(_engine(url))
        try:
            catalog._ready()
        except BaseException:
            catalog.close()
            raise
        return catalog

    def _ready(self) -> None:
        """Check the schema, without importing Alembic if it is right."""
        with self._transaction(writes=False) as connection:
            version = _schema_version(connection)
        if version == t.HEAD:
            return
        if self._engine.dialect.name == "sqlite":
            self.migrate()
            return
        shown = self._engine.url.render_as_string(hide_password=True)
        raise ConfigError(
            f"the catalog at {shown} has schema {version}, this version needs {t.HEAD}; "
            "migrate it first: python -m interloom.adapters.migrations"
        )

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to a revision.

        Raises:
            ConfigError: The database was made by a newer version.
        """
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._transaction() as connection:
            config.attributes["connection"] = connection
            try:
                if revision == "base":
                    command.downgrade(config, revision)
                else:
                    command.upgrade(config, revision)
            except CommandError as error:
                raise ConfigError(
                    f"the catalog's schema {_schema_version(connection)} is unknown to this "
                    f"version, which has {t.HEAD}; install the version that made it"
                ) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # Leases and results of stages

    def find(self, stage_key: str) -> StageHit | None:
        """The published result of a stage key, in two look-ups by primary key."""
        found = select(t.stage_result).where(t.stage_result.c.stage_key == stage_key)
        with self._transaction(writes=False) as connection:
            row = connection.execute(found).mappings().first()
            if row is None:
                return None
            outputs = _named(connection, t.run_output, row["run_id"])
        return StageHit(stage_key, row["run_id"], row["result_json"], outputs)

    def acquire(
        self, stage_key: str, owner: str, *, ttl_s: float, dead_owner: str | None = None
    ) -> Lease | None:
        """Take a lease that is new, was given back, or whose owner is dead or was silent."""
        with self._transaction() as connection:
            now_s = _now_s(connection)
            fresh = {"stage_key": stage_key, "owner": owner, "fence": 1, "heartbeat_s": now_s}
            if _insert_one(connection, t.lease, fresh):
                return Lease(stage_key, owner, 1)
            row = (
                connection.execute(
                    select(t.lease).where(t.lease.c.stage_key == stage_key).with_for_update()
                )
                .mappings()
                .one()
            )
            is_free = row["owner"] in {"", dead_owner}
            if not is_free and now_s - row["heartbeat_s"] < ttl_s:
                return None
            fence = row["fence"] + 1
            connection.execute(
                sa.update(t.lease)
                .where(t.lease.c.stage_key == stage_key)
                .values(owner=owner, fence=fence, heartbeat_s=now_s)
            )
        return Lease(stage_key, owner, fence)

    def lease_owner(self, stage_key: str) -> str | None:
        """Who holds the lease of a stage key."""
        wanted = select(t.lease.c.owner).where(t.lease.c.stage_key == stage_key)
        with self._transaction(writes=False) as connection:
            return connection.execute(wanted).scalar_one_or_none() or None

    def renew(self, lease: Lease) -> None:
        """Beat."""
        with self._transaction() as connection:
            _hold(connection, lease)

    def release(self, lease: Lease) -> None:
        """Give the lease back; its row stays, so that the fence goes on growing."""
        with self._transaction() as connection:
            connection.execute(
                sa.update(t.lease)
                .where(t.lease.c.stage_key == lease.stage_key, t.lease.c.fence == lease.fence)
                .values(owner="")
            )

    def leased(self, *, ttl_s: float) -> frozenset[str]:
        """The stage keys whose owner's heartbeat is fresh."""
        with self._transaction(writes=False) as connection:
            fresh = select(t.lease.c.stage_key).where(
                t.lease.c.owner != "", t.lease.c.heartbeat_s > _now_s(connection) - ttl_s
            )
            return frozenset(connection.execute(fresh).scalars())

    # Writing

    def start_run(self, start: RunStart) -> None:
        """Record that a run begins; runs of the same key that died before it are closed."""
        with self._transaction() as connection:
            if start.stage_key is not None:
                _close_dead_runs(connection, start.stage_key)
            _insert_run(connection, start, RunState.RUNNING)

    def publish(self, lease: Lease, publication: Publication) -> None:
        """Make everything visible in one transaction, if the lease is still ours."""
        run_id, now = publication.run_id, _now()
        with self._transaction() as connection:
            _hold(connection, lease)
            for manifest in publication.manifests:
                _insert_artifact(connection, manifest, run_id, now)
            _insert_edges(connection, t.run_input, run_id, publication.inputs)
            _insert_edges(connection, t.run_output, run_id, publication.outputs)
            _name_outputs(connection, run_id, publication.outputs, now)
            _insert_metrics(connection, run_id, publication.metrics)
            _insert_checks(connection, run_id, publication.checks)
            connection.execute(
                sa.insert(t.usage).values(
                    run_id=run_id,
                    wall_s=publication.usage.wall_s,
                    cpu_s=publication.usage.cpu_s,
                    peak_rss_bytes=publication.usage.peak_rss_bytes,
                )
            )
            connection.execute(
                sa.delete(t.stage_result).where(t.stage_result.c.stage_key == lease.stage_key)
            )
            connection.execute(
                sa.insert(t.stage_result).values(
                    stage_key=lease.stage_key, run_id=run_id, result_json=publication.result_json
                )
            )
            _end_run(connection, run_id, RunState.COMPLETE, None, now)

    def record_hit(self, start: RunStart, hit: StageHit, inputs: Mapping[str, ArtifactRef]) -> None:
        """Record a run that reused ``hit``; its outputs get their names in this recipe too."""
        now = _now()
        with self._transaction() as connection:
            _insert_run(connection, start, RunState.COMPLETE, origin_run_id=hit.run_id)
            _insert_edges(connection, t.run_input, start.run_id, inputs)
            _insert_edges(connection, t.run_output, start.run_id, hit.outputs)
            _name_outputs(connection, start.run_id, hit.outputs, now)

    def end_run(self, run_id: str, state: RunState, error: str | None = None) -> None:
        """End a run that publishes nothing itself."""
        with self._transaction() as connection:
            _end_run(connection, run_id, state, error, _now())

    def close_dead_runs(self, *, ttl_s: float, grace_s: float) -> int:
        """End as aborted the runs that nobody executes any more."""
        with self._transaction() as connection:
            now_s = _now_s(connection)
            heard_before = _iso(now_s - grace_s)
            dead = [
                *connection.execute(_unleased_runs(now_s - ttl_s)).scalars(),
                *connection.execute(_silent_pipelines(heard_before)).scalars(),
            ]
            for run_id in dead:
                _end_run(connection, run_id, RunState.ABORTED, "its runner died", _now())
        return len(dead)

    def publish_dataset(self, name: str, manifest: Manifest, run_id: str) -> DatasetVersion:
        """Publish an artifact under a name; the same content keeps its version."""
        now = _now()
        with self._transaction() as connection:
            _insert_artifact(connection, manifest, run_id, now)
            _insert_edges(connection, t.run_output, run_id, {name.rpartition("/")[2]: manifest.ref})
            _name_version(connection, name, manifest.ref, run_id, now)
            rows = connection.execute(
                _versions().where(
                    t.dataset.c.name == name, t.dataset_version.c.artifact_id == manifest.ref.id
                )
            )
            return _dataset_version(connection, rows.mappings().one())

    # Queries

    def dataset(self, name: str, version: int | None = None) -> DatasetVersion:
        """A named version, the newest by default."""
        wanted = _versions().where(t.dataset.c.name == name)
        if version is not None:
            wanted = wanted.where(t.dataset_version.c.version == version)
        wanted = wanted.order_by(t.dataset_version.c.version.desc()).limit(1)
        with self._transaction(writes=False) as connection:
            row = connection.execute(wanted).mappings().first()
            if row is not None:
                return _dataset_version(connection, row)
            names = connection.execute(select(t.dataset.c.name)).scalars().all()
        raise MissingError(_no_dataset(name, version, names))

    def datasets(self) -> Sequence[DatasetVersion]:
        """All published versions, newest first."""
        newest = _versions().order_by(
            t.dataset_version.c.published_at.desc(), t.dataset.c.name, t.dataset_version.c.version
        )
        with self._transaction(writes=False) as connection:
            rows = connection.execute(newest).mappings().all()
            return [_dataset_version(connection, row) for row in rows]

    def runs(self, *, parent_run_id: str | None = None, limit: int = 100) -> Sequence[RunRecord]:
        """Pipelines, newest first; or the stages of one pipeline, in order."""
        wanted = _runs().limit(limit)
        if parent_run_id is None:
            wanted = wanted.where(t.run.c.parent_run_id.is_(None), t.run.c.stage_key.is_(None))
            wanted = wanted.order_by(t.run.c.id.desc())
        else:
            wanted = wanted.where(t.run.c.parent_run_id == parent_run_id).order_by(t.run.c.id)
        with self._transaction(writes=False) as connection:
            return [_run_record(row) for row in connection.execute(wanted).mappings()]

    def last_run(self, job: str, recipe: str) -> RunRecord | None:
        """The newest run of a recipe that completed a stage and did not reuse a result."""
        wanted = (
            _runs()
            .where(t.job.c.name == job, t.run.c.recipe == recipe)
            .where(t.run.c.state == RunState.COMPLETE.value, t.run.c.origin_run_id.is_(None))
            .order_by(t.run.c.id.desc())
            .limit(1)
        )
        with self._transaction(writes=False) as connection:
            row = connection.execute(wanted).mappings().first()
        return _run_record(row) if row is not None else None

    def run(self, run_id: str) -> RunRecord:
        """One run, by its id or an unambiguous prefix."""
        wanted = _runs().where(t.run.c.id.startswith(run_id.lower(), autoescape=True)).limit(4)
        with self._transaction(writes=False) as connection:
            rows = connection.execute(wanted).mappings().all()
        if len(rows) == 1:
            return _run_record(rows[0])
        if not rows:
            raise MissingError(f"no run begins with {run_id!r}; list them with: interloom runs")
        several = ", ".join(row["id"] for row in rows)
        raise MissingError(f"several runs begin with {run_id!r}: {several}; give more digits")

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
        with self._transaction(writes=False) as connection:
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
        with self._transaction(writes=False) as connection:
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
        with self._transaction(writes=False) as connection:
            return [
                LineageEdge(
                    run_id=row["run_id"],
                    job=row["job"],
                    name=row["name"],
                    artifact=_ref(row),
                    is_output=is_output,
                )
                for table, is_output in ((t.run_input, False), (t.run_output, True))
                for row in connection.execute(_edges(table, run_ids)).mappings()
            ]

    def producer(self, artifact: ArtifactRef) -> str | None:
        """The run that first published an artifact."""
        wanted = select(t.artifact.c.producer_run_id).where(t.artifact.c.id == artifact.id)
        with self._transaction(writes=False) as connection:
            return connection.execute(wanted).scalar_one_or_none()

    def consumers(self, artifact: ArtifactRef) -> Sequence[str]:
        """The runs that read an artifact, in order."""
        wanted = (
            select(t.run_input.c.run_id)
            .where(t.run_input.c.artifact_id == artifact.id)
            .distinct()
            .order_by(t.run_input.c.run_id)
        )
        with self._transaction(writes=False) as connection:
            return connection.execute(wanted).scalars().all()

    def facts(self, artifact: ArtifactRef) -> Mapping[str, Any]:
        """How an artifact was made, from its manifest.

        Raises:
            MissingError: It is not published.
        """
        wanted = select(t.artifact.c.manifest_json).where(t.artifact.c.id == artifact.id)
        with self._transaction(writes=False) as connection:
            manifest_json = connection.execute(wanted).scalar_one_or_none()
        if manifest_json is None:
            raise MissingError(f"{artifact} is not published")
        return Manifest.from_json(manifest_json.encode()).facts

    @contextmanager
    def _transaction(self, *, writes: bool = True) -> Iterator[Connection]:
        """One transaction; what the database says is told in our words."""
        try:
            with (
                self._engine.connect().execution_options(interloom_writes=writes) as connection,
                connection.begin(),
            ):
                yield connection
        except OperationalError as error:
            shown = self._engine.url.render_as_string(hide_password=True)
            if "unable to open database file" in str(error.orig):
                raise ConfigError(
                    f"the catalog {shown} cannot be opened; check that its folder can be "
                    "written, or set INTERLOOM_DATABASE_URL"
                ) from error
            raise TransientError(f"the catalog {shown} does not answer: {error.orig}") from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise TransientError(f"the catalog was cut off: {error.orig}") from error
            raise


def migrate(url: str, revision: str = "head") -> None:
    """Bring the catalog at ``url`` to a revision: what PostgreSQL needs before its first use."""
    catalog = SqlCatalog(_engine(url))
    try:
        catalog.migrate(revision)
    finally:
        catalog.close()


def _engine(url: str) -> Engine:
    """An engine with our settings of SQLite.

    Raises:
        ConfigError: The URL cannot be read, or its driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
        engine = sa.create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"INTERLOOM_DATABASE_URL cannot be read: {error}") from error
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the database driver {error.name!r} is not installed; "
            "pip install 'interloom[postgres]', and begin the URL with postgresql+psycopg://"
        ) from error
    if engine.dialect.name == "sqlite":
        _make_folder(parsed.database)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_folder(database: str | None) -> None:
    """Make the folder of a SQLite file.

    Raises:
        ConfigError: It cannot be made.
    """
    if not database or database == ":memory:":
        raise ConfigError("the catalog needs a SQLite file: processes share it")
    try:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the catalog's folder {Path(database).parent} cannot be made: {error.strerror}; "
            "set INTERLOOM_HOME to a folder that can be written"
        ) from error


def _set_up_sqlite(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # SQLAlchemy's begin is ours to write
    for pragma in (
        "busy_timeout = 30000",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("interloom_writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _schema_version(connection: Connection) -> str | None:
    """The migration that the schema is at; None for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _now_s(connection: Connection) -> float:
    """The database's clock, which all runners share; on SQLite that of this machine."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(
        connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    )


def _insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows that break no unique constraint; leave those that are there."""
    if rows:
        connection.execute(_insert_or_leave(connection, table), list(rows))


def _insert_one(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row; False if it is there already."""
    insert = _insert_or_leave(connection, table).values(row)
    return connection.execute(insert.returning(sa.literal(1))).first() is not None


def _insert_or_leave(
    connection: Connection, table: Table
) -> sqlite.dml.Insert | postgresql.dml.Insert:
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing()


def _hold(connection: Connection, lease: Lease) -> None:
    """Beat, and keep the lease's row locked to the end of the transaction.

    Raises:
        LeaseLostError: It has another owner by now.
    """
    beaten = connection.execute(
        sa.update(t.lease)
        .where(
            t.lease.c.stage_key == lease.stage_key,
            t.lease.c.fence == lease.fence,
            t.lease.c.owner == lease.owner,
        )
        .values(heartbeat_s=_now_s(connection))
    )
    if beaten.rowcount != 1:
        raise LeaseLostError(
            f"another runner took over stage key {lease.stage_key[:12]} "
            f"from {lease.owner} (fence {lease.fence}); its result will be used"
        )


def _insert_run(
    connection: Connection, start: RunStart, state: RunState, origin_run_id: str | None = None
) -> None:
    now = _now()
    named = {"namespace": _NAMESPACE, "name": start.job}
    _insert_new(connection, t.job, [named])
    job_id = select(t.job.c.id).filter_by(**named).scalar_subquery()
    connection.execute(
        sa.insert(t.run).values(
            id=start.run_id,
            job_id=job_id,
            recipe=start.recipe,
            parent_run_id=start.parent_run_id,
            stage_key=start.stage_key,
            code_digest=start.code_digest,
            request_json=start.request_json,
            state=state.value,
            origin_run_id=origin_run_id,
            started_at=now,
            ended_at=None if state is RunState.RUNNING else now,
        )
    )
    _insert_event(connection, start.run_id, RunState.RUNNING, now)
    if state is not RunState.RUNNING:
        _insert_event(connection, start.run_id, state, now)


def _insert_event(connection: Connection, run_id: str, state: RunState, now: str) -> None:
    connection.execute(sa.insert(t.run_event).values(run_id=run_id, type=_EVENTS[state], at=now))


def _end_run(
    connection: Connection, run_id: str, state: RunState, error: str | None, now: str
) -> None:
    """End a run that is running; one that ended already stays as it is."""
    ended = connection.execute(
        sa.update(t.run)
        .where(t.run.c.id == run_id, t.run.c.state == RunState.RUNNING.value)
        .values(state=state.value, ended_at=now, error=error)
    )
    if ended.rowcount:
        _insert_event(connection, run_id, state, now)


def _close_dead_runs(connection: Connection, stage_key: str) -> None:
    """End the runs of a key whose runner died: whoever starts one holds the lease now."""
    running = select(t.run.c.id).where(
        t.run.c.stage_key == stage_key, t.run.c.state == RunState.RUNNING.value
    )
    for run_id in connection.execute(running).scalars().all():
        _end_run(connection, run_id, RunState.ABORTED, "its runner died", _now())


def _unleased_runs(fresh_s: float) -> sa.Select[Any]:
    """Running stages without a lease whose heartbeat is later than ``fresh_s``."""
    is_leased = (
        select(t.lease.c.stage_key)
        .where(t.lease.c.stage_key == t.run.c.stage_key)
        .where(t.lease.c.owner != "", t.lease.c.heartbeat_s > fresh_s)
        .exists()
    )
    is_running = t.run.c.state == RunState.RUNNING.value
    return select(t.run.c.id).where(is_running, t.run.c.stage_key.is_not(None), ~is_leased)


def _silent_pipelines(heard_before: str) -> sa.Select[Any]:
    """Running pipelines that started before a time, none of whose stages began or ended since."""
    stage = t.run.alias()
    was_heard = (
        select(stage.c.id)
        .where(stage.c.parent_run_id == t.run.c.id)
        .where(
            (stage.c.state == RunState.RUNNING.value)
            | (stage.c.started_at >= heard_before)
            | (stage.c.ended_at >= heard_before)
        )
        .exists()
    )
    return select(t.run.c.id).where(
        t.run.c.state == RunState.RUNNING.value,
        t.run.c.stage_key.is_(None),
        t.run.c.started_at < heard_before,
        ~was_heard,
    )


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
    if not _insert_one(connection, t.artifact, row):
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
    _insert_new(connection, t.shard, shards)
    tags = [{"artifact_id": artifact_id, "tag": tag} for tag in sorted(set(manifest.licences))]
    _insert_new(connection, t.licence_tag, tags)
    parents = [{"artifact_id": artifact_id, "parent_id": ref.id} for ref in set(manifest.parents)]
    _insert_new(connection, t.artifact_parent, parents)


def _insert_edges(
    connection: Connection, table: Table, run_id: str, refs: Mapping[str, ArtifactRef]
) -> None:
    rows = [{"run_id": run_id, "name": name, "artifact_id": ref.id} for name, ref in refs.items()]
    _insert_new(connection, table, rows)


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
    _insert_new(connection, t.dataset, [{"namespace": _NAMESPACE, "name": name, "type": kind}])
    dataset_id = connection.execute(
        select(t.dataset.c.id).where(t.dataset.c.name == name).with_for_update()
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
    _insert_new(connection, t.metric, rows)


def _insert_checks(connection: Connection, run_id: str, checks: Sequence[CheckResult]) -> None:
    rows = [
        {
            "run_id": run_id,
            "position": position,
            "suite": check.suite,
            "expectation": check.expectation,
            "success": check.success,
            "observed": check.observed,
            "failed_rows_json": json.dumps(check.failed_rows),
            "severity": check.severity,
        }
        for position, check in enumerate(checks)
    ]
    _insert_new(connection, t.check_result, rows)


def _named(connection: Connection, table: Table, run_id: str) -> dict[str, ArtifactRef]:
    """The artifacts at the edges of one run, by name."""
    wanted = (
        select(table.c.name, t.artifact.c.kind, t.artifact.c.id)
        .join(t.artifact, t.artifact.c.id == table.c.artifact_id)
        .where(table.c.run_id == run_id)
        .order_by(table.c.name)
    )
    return {row["name"]: _ref(row) for row in connection.execute(wanted).mappings()}


def _ref(row: RowMapping) -> ArtifactRef:
    return ArtifactRef(ArtifactKind(row["kind"]), row["id"])


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


def _versions() -> sa.Select[Any]:
    return (
        select(
            t.dataset.c.name,
            t.dataset_version.c.version,
            t.dataset_version.c.published_at,
            t.artifact.c.kind,
            t.artifact.c.id,
            t.artifact.c.num_bytes,
            t.artifact.c.counts_json,
        )
        .join(t.dataset, t.dataset.c.id == t.dataset_version.c.dataset_id)
        .join(t.artifact, t.artifact.c.id == t.dataset_version.c.artifact_id)
    )


def _dataset_version(connection: Connection, row: RowMapping) -> DatasetVersion:
    tags = (
        select(t.licence_tag.c.tag)
        .where(t.licence_tag.c.artifact_id == row["id"])
        .order_by(t.licence_tag.c.tag)
    )
    return DatasetVersion(
        name=row["name"],
        version=row["version"],
        ref=_ref(row),
        published_at=row["published_at"],
        num_bytes=row["num_bytes"],
        counts=json.loads(row["counts_json"]),
        licences=tuple(connection.execute(tags).scalars()),
    )


def _runs() -> sa.Select[Any]:
    return (
        select(
            t.run,
            t.job.c.name.label("job"),
            t.usage.c.wall_s,
            t.usage.c.cpu_s,
            t.usage.c.peak_rss_bytes,
        )
        .join(t.job, t.job.c.id == t.run.c.job_id)
        .outerjoin(t.usage, t.usage.c.run_id == t.run.c.id)
    )


def _run_record(row: RowMapping) -> RunRecord:
    return RunRecord(
        run_id=row["id"],
        job=row["job"],
        recipe=row["recipe"],
        state=RunState(row["state"]),
        parent_run_id=row["parent_run_id"],
        stage_key=row["stage_key"],
        is_cache_hit=row["origin_run_id"] is not None,
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        error=row["error"],
        usage=Usage(row["wall_s"] or 0.0, row["cpu_s"] or 0.0, row["peak_rss_bytes"] or 0),
        request_json=row["request_json"],
        code_digest=row["code_digest"],
    )


def _no_dataset(name: str, version: int | None, names: Sequence[str]) -> str:
    """What to say when a name or a version is not there."""
    import difflib

    if name in names:
        return f"{name!r} has no version {version}; list them with: interloom data list"
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or sorted(names)[:3]
    hint = f"the nearest are {', '.join(near)}" if near else "nothing is published yet"
    return f"no dataset is called {name!r}; {hint}"
