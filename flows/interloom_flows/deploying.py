"""Bring a Prefect server to what ``prefect.yaml`` says: first what differs, then the change.

Applied twice, the second time changes nothing. What is on the server under other names is left
alone.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interloom.core.errors import ConfigError, TransientError
from interloom_flows.deployments import Deployment, DeploymentFile, Schedule
from interloom_flows.pools import limit_name

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

_TAG = "interloom"
_AUTOMATION = "interloom: silent runs have crashed"
_HEARTBEAT = "prefect.flow-run.heartbeat"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not on the server as it should be.

    Attributes:
        kind: Work pool, queue, limit, deployment or automation.
        name: Which.
        details: ``field: was -> shall be``; empty for something new.
    """

    kind: str
    name: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = "; ".join(self.details) if self.details else "new"
        return f"{self.kind} {self.name}: {what}"


def deploy(file: DeploymentFile, root: Path, *, applies: bool) -> Iterator[Change]:
    """Yield each difference; with ``applies``, right after it was mended.

    Args:
        file: What shall be.
        root: What its paths are relative to.
        applies: Change the server, and not only tell.

    Raises:
        TransientError: The server does not answer.
        ConfigError: It refuses the login, or what it was sent.
    """
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            server = _Server(client, file, root, applies=applies)
            yield from server.changes()
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if status in {401, 403}:
            raise ConfigError(
                "the Prefect server refuses the login; set PREFECT_API_AUTH_STRING"
            ) from error
        raise ConfigError(f"the Prefect server refuses: {error.response.text[:300]}") from error
    except (HTTPError, RuntimeError) as error:
        raise TransientError(
            f"no Prefect server answers ({error}); start one, and set PREFECT_API_URL to it"
        ) from error


class _Server:
    """One server against one file."""

    def __init__(
        self, client: "SyncPrefectClient", file: DeploymentFile, root: Path, *, applies: bool
    ) -> None:
        self._client = client
        self._file = file
        self._applies = applies
        self._pull = [dict(step) for step in file.pull]
        self._template = _read_template(root / file.around.base_job_template)

    def changes(self) -> Iterator[Change]:
        for pool in sorted({entry.work_pool.name for entry in self._file.deployments}):
            yield from self._work_pool(pool)
            for queue, limit in self._file.around.queues.items():
                yield from self._queue(pool, queue, limit)
        for pool, limit in self._file.around.pools.items():
            yield from self._limit(limit_name(pool), limit)
        for deployment in self._file.deployments:
            yield from self._deployment(deployment)
        yield from self._automation()

    def _work_pool(self, name: str) -> Iterator[Change]:
        from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
        from prefect.exceptions import ObjectNotFound

        try:
            there = self._client.read_work_pool(name)
        except ObjectNotFound:
            yield Change("work pool", name)
            if self._applies:
                self._client.create_work_pool(
                    WorkPoolCreate(name=name, type="kubernetes", base_job_template=self._template)
                )
            return
        if there.type != "kubernetes":
            raise ConfigError(
                f"work pool {name!r} is of type {there.type!r}, not kubernetes; "
                "remove it, or name another in prefect.yaml"
            )
        if there.base_job_template != self._template:
            yield Change("work pool", name, ("base job template differs",))
            if self._applies:
                self._client.update_work_pool(
                    name, WorkPoolUpdate(base_job_template=self._template)
                )

    def _queue(self, pool: str, name: str, limit: int) -> Iterator[Change]:
        from prefect.exceptions import ObjectNotFound

        try:
            there = self._client.read_work_queue_by_name(name, work_pool_name=pool)
        except ObjectNotFound:
            yield Change("queue", f"{pool}/{name}")
            if self._applies:
                made = self._client.create_work_queue(name, work_pool_name=pool)
                self._client.update_work_queue(made.id, concurrency_limit=limit)
            return
        if there.concurrency_limit != limit:
            yield Change(
                "queue", f"{pool}/{name}", _differ("limit", there.concurrency_limit, limit)
            )
            if self._applies:
                self._client.update_work_queue(there.id, concurrency_limit=limit)

    def _limit(self, name: str, limit: int) -> Iterator[Change]:
        from prefect.exceptions import ObjectNotFound

        try:
            there = self._client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            yield Change("limit", name)
        else:
            if there.limit == limit:
                return
            yield Change("limit", name, _differ("limit", there.limit, limit))
        if self._applies:
            self._client.upsert_global_concurrency_limit_by_name(name, limit)

    def _deployment(self, wanted: Deployment) -> Iterator[Change]:
        from prefect.exceptions import ObjectNotFound
        from prefect.flows import load_flow_from_entrypoint

        flow: Flow[..., Any] = load_flow_from_entrypoint(wanted.entrypoint)
        name = f"{flow.name}/{wanted.name}"
        shall = _fields(wanted) | {"pull": self._pull}
        try:
            there = self._client.read_deployment_by_name(name)
        except ObjectNotFound:
            yield Change("deployment", name)
        else:
            was = _fields_there(there)
            changed = [field for field in shall if was[field] != shall[field]]
            if not changed:
                return
            details = (_differ(field, was[field], shall[field])[0] for field in changed)
            yield Change("deployment", name, tuple(details))
        if self._applies:
            self._create(flow, wanted)

    def _create(self, flow: Any, wanted: Deployment) -> None:
        """Make the deployment, or make it anew under its id: schedules are replaced as a whole."""
        from prefect.client.schemas.actions import DeploymentScheduleCreate
        from prefect.utilities.callables import parameter_schema

        self._client.create_deployment(
            flow_id=self._client.create_flow(flow),
            name=wanted.name,
            schedules=[
                DeploymentScheduleCreate(schedule=_schedule(entry), active=True)
                for entry in wanted.schedules
            ],
            concurrency_limit=wanted.concurrency_limit,
            parameters=dict(wanted.parameters),
            description=wanted.description,
            work_queue_name=wanted.work_pool.work_queue_name,
            work_pool_name=wanted.work_pool.name,
            tags=[_TAG],
            entrypoint=wanted.entrypoint,
            parameter_openapi_schema=parameter_schema(flow.fn).model_dump_for_openapi(),
            job_variables=dict(wanted.work_pool.job_variables),
            pull_steps=self._pull,
        )

    def _automation(self) -> Iterator[Change]:
        found = self._client.read_automations_by_name(_AUTOMATION)
        wanted = _silent_runs_crash(self._file.around.silent_after_s)
        shall = _essence(wanted)
        if found:
            was = _essence(found[0])
            if was == shall:
                return
            changed = [key for key in shall if was[key] != shall[key]]
            details = tuple(_differ(key, was[key], shall[key])[0] for key in changed)
            yield Change("automation", _AUTOMATION, details)
            if self._applies:
                self._client.update_automation(found[0].id, wanted)
            return
        yield Change("automation", _AUTOMATION)
        if self._applies:
            self._client.create_automation(wanted)


def _read_template(path: Path) -> dict[str, Any]:
    try:
        template: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the base job template {path} cannot be read: {error}") from error
    return template


def _schedule(entry: Schedule) -> "CronSchedule | IntervalSchedule":
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    if entry.cron is not None:
        return CronSchedule(cron=entry.cron, timezone=entry.timezone)
    if entry.interval is None:
        raise ConfigError("a schedule needs cron or interval")
    return IntervalSchedule(interval=timedelta(seconds=entry.interval), timezone=entry.timezone)


def _fields(wanted: Deployment) -> dict[str, Any]:
    """What is compared, as it shall be."""
    return {
        "entrypoint": wanted.entrypoint,
        "description": wanted.description,
        "parameters": dict(wanted.parameters),
        "concurrency limit": wanted.concurrency_limit,
        "work pool": wanted.work_pool.name,
        "queue": wanted.work_pool.work_queue_name,
        "job variables": dict(wanted.work_pool.job_variables),
        "schedules": [(entry.cron, entry.interval, entry.timezone) for entry in wanted.schedules],
    }


def _fields_there(there: Any) -> dict[str, Any]:
    """The same of what the server has."""
    limit = there.global_concurrency_limit
    return {
        "entrypoint": there.entrypoint,
        "description": there.description,
        "parameters": there.parameters,
        "concurrency limit": limit.limit if limit is not None else None,
        "work pool": there.work_pool_name,
        "queue": there.work_queue_name,
        "job variables": there.job_variables or {},
        "pull": there.pull_steps or [],
        "schedules": [_schedule_there(entry.schedule) for entry in there.schedules],
    }


def _schedule_there(schedule: Any) -> tuple[str | None, int | None, str]:
    interval = getattr(schedule, "interval", None)
    seconds = int(interval.total_seconds()) if interval is not None else None
    return getattr(schedule, "cron", None), seconds, schedule.timezone or "UTC"


def _silent_runs_crash(silent_s: int) -> Any:
    """A run that began to speak and was then silent for too long is told to have crashed."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    ends = {
        f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")
    }
    return AutomationCore(
        name=_AUTOMATION,
        description="Its pod is gone without a word, or hangs.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *ends},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silent_s),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"It said nothing for {silent_s} s.",
                force=False,
            )
        ],
    )


def _essence(automation: Any) -> dict[str, Any]:
    """What is compared of an automation."""
    trigger = automation.trigger
    return {
        "enabled": automation.enabled,
        "silent for": trigger.within.total_seconds(),
        "after": sorted(trigger.after),
        "expect": sorted(trigger.expect),
        "actions": [action.type for action in automation.actions],
    }


def _differ(field: str, was: object, shall: object) -> tuple[str]:
    return (f"{field}: {was!r} -> {shall!r}",)
