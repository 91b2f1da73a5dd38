"""What runs and ran: pipelines and their stages."""

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
from interloom.core.errors import MissingError
from interloom.ports.catalog import RunRecord, RunStart, RunState, Usage

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
        with self._database.transaction() as connection:
            if start.stage_key is not None:
                _close_dead_runs(connection, start.stage_key)
            insert_run(connection, start, RunState.RUNNING)

    def end_run(self, run_id: str, state: RunState, error: str | None = None) -> None:
        """End a run that publishes nothing itself."""
        with self._database.transaction() as connection:
            end_run_in(connection, run_id, state, error, now_text())

    def close_dead_runs(self, *, ttl_s: float, grace_s: float) -> int:
        """End as aborted the runs that nobody executes any more."""
        with self._database.transaction() as connection:
            now_s = database_now_s(connection)
            heard_before = iso(now_s - grace_s)
            dead = [
                *connection.execute(_unleased_runs(now_s - ttl_s)).scalars(),
                *connection.execute(_silent_pipelines(heard_before)).scalars(),
            ]
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
        wanted = _runs().where(t.run.c.id.startswith(run_id.lower(), autoescape=True)).limit(4)
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(wanted).mappings().all()
        if len(rows) == 1:
            return _run_record(rows[0])
        if not rows:
            raise MissingError(f"no run begins with {run_id!r}; list them with: interloom runs")
        several = ", ".join(row["id"] for row in rows)
        raise MissingError(f"several runs begin with {run_id!r}: {several}; give more digits")


def insert_run(
    connection: Connection, start: RunStart, state: RunState, origin_run_id: str | None = None
) -> None:
    """Insert a run that begins, or that is complete at once because it reused another's result."""
    now = now_text()
    named = {"namespace": NAMESPACE, "name": start.job}
    insert_new(connection, t.job, [named])
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


def end_run_in(
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
        end_run_in(connection, run_id, RunState.ABORTED, "its runner died", now_text())


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
