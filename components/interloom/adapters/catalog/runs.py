"""What runs and ran: pipelines and their stages."""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping, select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import (
    NAMESPACE,
    Room,
    database_now_s,
    insert_new,
    iso,
    now_text,
)
from interloom.core.errors import ConfigError, MissingError
from interloom.ports.catalog import RunRecord, RunStart, RunState, Usage
from interloom.ports.gate import CheckResult

_LONGEST_NAME = 200
_ID_FORM = "00000000-0000-0000-0000-000000000000"
_EVENTS = {
    RunState.RUNNING: "START",
    RunState.COMPLETE: "COMPLETE",
    RunState.FAILED: "FAIL",
    RunState.ABORTED: "ABORT",
}


class Runs(Room):
    """Runs: their beginning, their end, and the queries about them."""

    def start_run(self, start: RunStart) -> None:
        """Record that a run begins; runs of the same key that died before it are closed."""
        require_name(start.recipe)
        with self._database.transaction() as connection:
            if start.stage_key is not None:
                _close_dead_runs(connection, start.stage_key)
            insert_run(connection, start, RunState.RUNNING)

    def end_run(
        self,
        run_id: str,
        state: RunState,
        error: str | None = None,
        *,
        checks: Sequence[CheckResult] = (),
    ) -> None:
        """End a run that publishes nothing itself; keep the verdicts that it came to."""
        with self._database.transaction() as connection:
            if end_run_in(connection, run_id, state, error, now_text()):
                insert_checks(connection, run_id, checks)

    def running(self) -> Sequence[RunRecord]:
        """The runs that have begun and not ended, oldest first."""
        wanted = _runs().where(t.run.c.state == RunState.RUNNING.value).order_by(t.run.c.id)
        with self._database.transaction(writes=False) as connection:
            return [_run_record(row) for row in connection.execute(wanted).mappings()]

    def close_dead_runs(self, *, ttl_s: float, grace_s: float) -> int:
        """End as aborted the runs that nobody executes any more."""
        with self._database.transaction() as connection:
            now_s = database_now_s(connection)
            heard_before = iso(now_s - grace_s)
            dead = connection.execute(_dead_runs(now_s - ttl_s, heard_before)).scalars().all()
            for run_id in dead:
                end_run_in(connection, run_id, RunState.ABORTED, "its runner died", now_text())
        return len(dead)

    def runs(self, *, parent_run_id: str | None = None, limit: int = 100) -> Sequence[RunRecord]:
        """Pipelines, newest first; or the stages of one pipeline, in order."""
        wanted = _runs().limit(limit)
        if parent_run_id is None:
            wanted = wanted.where(t.run.c.parent_run_id.is_(None), t.run.c.stage_key.is_(None))
            wanted = wanted.order_by(t.run.c.id.desc())
        else:
            wanted = wanted.where(t.run.c.parent_run_id == parent_run_id).order_by(t.run.c.id)
        with self._database.transaction(writes=False) as connection:
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
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(wanted).mappings().first()
        return _run_record(row) if row is not None else None

    def run(self, run_id: str) -> RunRecord:
        """One run, by its id or an unambiguous prefix."""
        first, last = (_padded(run_id.lower(), digit) for digit in "0f")
        wanted = _runs().where(t.run.c.id.between(first, last)).order_by(t.run.c.id).limit(4)
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(wanted).mappings().all()
        if len(rows) == 1:
            return _run_record(rows[0])
        if not rows:
            raise MissingError(f"no run begins with {run_id!r}; list them with: interloom runs")
        several = ", ".join(row["id"] for row in rows)
        raise MissingError(f"several runs begin with {run_id!r}: {several}; give more digits")


def _padded(prefix: str, digit: str) -> str:
    """The first or last id with a prefix; as long as any id, so that every collation agrees."""
    return prefix + _ID_FORM[len(prefix) :].replace("0", digit)


def require_name(name: str) -> None:
    """Refuse a name that no folder, file or column could have, before any work is done for it.

    Raises:
        ConfigError: It is too long, or a part of it is empty or leads elsewhere.
    """
    is_odd = any(part in {"", ".", ".."} for part in name.split("/")) or not name.isprintable()
    if is_odd or len(name) > _LONGEST_NAME:
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:40]}... of {len(name)} letters"
        raise ConfigError(
            f"the name {shown!r} cannot be used: a name has at most {_LONGEST_NAME} printable "
            "letters, and no part of it between slashes is empty, '.' or '..'"
        )


def insert_run(
    connection: Connection, start: RunStart, state: RunState, origin_run_id: str | None = None
) -> None:
    """Insert a run that begins, or that is complete at once because it reused another's result."""
    now = now_text()
    job_id = _job_id(connection, start.job)
    connection.execute(
        sa.insert(t.run).values(
            id=start.run_id,
            job_id=job_id,
            recipe=start.recipe,
            parent_run_id=start.parent_run_id,
            stage_key=start.stage_key,
            job_version_id=_job_version_id(connection, job_id, start),
            num_ranks=start.num_ranks,
            threads_per_rank=start.threads_per_rank,
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


def _job_id(connection: Connection, job: str) -> int:
    """The row of a job, made if need be."""
    named = {"namespace": NAMESPACE, "name": job}
    insert_new(connection, t.job, [named])
    return int(connection.execute(select(t.job.c.id).filter_by(**named)).scalar_one())


def _job_version_id(connection: Connection, job_id: int, start: RunStart) -> int:
    """The row of a job's code on a kind of machine, made if need be."""
    values = {
        "job_id": job_id,
        "code_digest": start.code_digest,
        "numeric_class": start.numeric_class,
    }
    insert_new(connection, t.job_version, [values])
    return int(connection.execute(select(t.job_version.c.id).filter_by(**values)).scalar_one())


def _insert_event(connection: Connection, run_id: str, state: RunState, now: str) -> None:
    """Append to the log of events; if they are told to anyone, also to the outbox."""
    event = sa.insert(t.run_event).values(run_id=run_id, type=_EVENTS[state], at=now)
    seq = connection.execute(event.returning(t.run_event.c.seq)).scalar_one()
    if connection.info["tells_events"]:
        connection.execute(
            sa.insert(t.outbox).values(seq=seq, num_attempts=0, retry_at_s=0.0, last_error=None)
        )


def end_run_in(
    connection: Connection, run_id: str, state: RunState, error: str | None, now: str
) -> bool:
    """End a run that is running; one that ended already stays as it is. Whether it was ended."""
    ended = connection.execute(
        sa.update(t.run)
        .where(t.run.c.id == run_id, t.run.c.state == RunState.RUNNING.value)
        .values(state=state.value, ended_at=now, error=error)
    )
    if ended.rowcount:
        _insert_event(connection, run_id, state, now)
    return ended.rowcount == 1


def insert_checks(connection: Connection, run_id: str, checks: Sequence[CheckResult]) -> None:
    """Keep the verdicts of a run."""
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
    insert_new(connection, t.check_result, rows)


def _close_dead_runs(connection: Connection, stage_key: str) -> None:
    """End the runs of a key whose runner died: whoever starts one holds the lease now."""
    running = select(t.run.c.id).where(
        t.run.c.stage_key == stage_key, t.run.c.state == RunState.RUNNING.value
    )
    for run_id in connection.execute(running).scalars().all():
        end_run_in(connection, run_id, RunState.ABORTED, "its runner died", now_text())


def _dead_runs(fresh_s: float, heard_before: str) -> sa.Select[Any]:
    """Running runs whose lease is not held, or whose holder was silent since ``fresh_s``.

    A stage's lease is that of its key, any other run's that of its id. A run that never had one,
    and is no stage, is dead when nothing was heard of it since ``heard_before``.
    """
    key = sa.func.coalesce(t.run.c.stage_key, t.run.c.id)
    lease = select(t.lease.c.stage_key).where(t.lease.c.stage_key == key)
    is_held = lease.where(t.lease.c.owner != "", t.lease.c.heartbeat_s > fresh_s).exists()
    is_kept = t.run.c.stage_key.is_(None) & ~lease.exists() & ~_is_silent(heard_before)
    return select(t.run.c.id).where(t.run.c.state == RunState.RUNNING.value, ~is_held, ~is_kept)


def _is_silent(heard_before: str) -> sa.ColumnElement[bool]:
    """Whether a run started before a time, and none of its stages began or ended since."""
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
    return (t.run.c.started_at < heard_before) & ~was_heard


def _runs() -> sa.Select[Any]:
    return (
        select(
            t.run,
            t.job.c.name.label("job"),
            t.usage.c.wall_s,
            t.usage.c.cpu_s,
            t.usage.c.peak_rss_bytes,
            t.usage.c.node_kind,
            t.usage.c.num_gpus,
            t.usage.c.price,
            t.job_version.c.code_digest,
            t.job_version.c.numeric_class,
        )
        .join(t.job, t.job.c.id == t.run.c.job_id)
        .outerjoin(t.job_version, t.job_version.c.id == t.run.c.job_version_id)
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
        usage=_usage(row),
        request_json=row["request_json"],
        code_digest=row["code_digest"] or "",
        numeric_class=row["numeric_class"] or "",
        num_ranks=row["num_ranks"] or 1,
        threads_per_rank=row["threads_per_rank"] or 1,
        origin_run_id=row["origin_run_id"],
    )


def _usage(row: RowMapping) -> Usage:
    if row["wall_s"] is None:
        return Usage()
    return Usage(
        wall_s=row["wall_s"],
        cpu_s=row["cpu_s"],
        peak_rss_bytes=row["peak_rss_bytes"],
        node_kind=row["node_kind"],
        num_gpus=row["num_gpus"],
        price=row["price"],
    )
