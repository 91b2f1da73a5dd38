"""The pipelines as Prefect flows: order, side by side, retries, what an operator sees.

One flow a pipeline, one task a stage. Prefect caches and keeps nothing: the catalog decides what
is reused, so a flow that is run again goes on from where it was.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

from prefect import Task, flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from interloom.bootstrap import Services, connect
from interloom.config.recipe import Recipe
from interloom.config.settings import load_settings
from interloom.core.errors import ConfigError, TransientError
from interloom.core.ids import new_run_id
from interloom.ports.progress import Progress
from interloom.stages.contract import StageCall, StageContract, StageOutcome, execute_stage
from interloom.stages.sweeping import reconcile, sweep
from interloom_flows.listening import CALLER, Caller, RunListener
from interloom_flows.parameters import PipelineParameters
from interloom_flows.pipeline import Inputs, Step
from interloom_flows.planning import blocked_entries, named_corpora, resolve, stage_call
from interloom_flows.pools import is_moving, limited
from interloom_flows.recording import (
    MIXTURE_RERUN,
    NIGHTLY_EVALUATION,
    PRETRAINING,
    pipeline_run,
)
from interloom_flows.reporting import describe_lost
from interloom_flows.results import result_metrics
from interloom_flows.telling import tell_lineage

_MAX_WORKERS = 16


class StageWork:
    """What a task needs. Not a dataclass, since Prefect looks for futures inside of those."""

    __slots__ = ("call", "contract", "listener")

    def __init__(self, contract: StageContract, call: StageCall, listener: RunListener) -> None:
        self.contract = contract
        self.call = call
        self.listener = listener


def _side_by_side() -> TaskRunner[Any]:
    """Tasks in threads: each only waits for the processes of its stage."""
    return ThreadPoolTaskRunner(max_workers=_MAX_WORKERS)


async def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what may heal; fail at once on bad data, bad config and bugs."""
    return isinstance(await state.aresult(raise_on_failure=False), TransientError)


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=is_transient)
def stage_task(work: StageWork) -> StageOutcome:
    """Reuse or make one stage's result."""
    stage = work.call.stage
    call = replace(work.call, run_id=new_run_id())  # a retry is a run of its own
    started_s = time.monotonic()
    try:
        outcome = execute_stage(work.contract, call, progress=work.listener.started(stage))
    except BaseException as error:
        work.listener.failed(stage, error)
        raise
    if outcome.is_hit:
        work.listener.reused(stage)
    else:
        work.listener.finished(stage, time.monotonic() - started_s)
    return outcome


@flow(
    name="pretraining-pipeline",
    task_runner=_side_by_side(),
    persist_result=False,
)
def pretraining_pipeline(parameters: PipelineParameters) -> str:
    """From recordings and text to an evaluated chatbot; gives the run's id in the catalog."""
    return _run_pipeline(parameters, PRETRAINING)


@flow(
    name="mixture-rerun",
    task_runner=_side_by_side(),
    persist_result=False,
)
def mixture_rerun(parameters: PipelineParameters) -> str:
    """Run a recipe again with another mixture: what does not depend on it is reused.

    Raises:
        ConfigError: An override is not one of the mixture.
    """
    for override in parameters.overrides:
        if not override.startswith("mixture."):
            raise ConfigError(
                f"a mixture rerun changes only mixture.*, got {override!r}; "
                "use the pretraining pipeline for other changes"
            )
    return _run_pipeline(parameters, MIXTURE_RERUN)


@flow(
    name="nightly-evaluation",
    task_runner=_side_by_side(),
    persist_result=False,
)
def nightly_evaluation(parameters: PipelineParameters) -> str:
    """Bring a recipe's evaluation up to date with its code and data."""
    return _run_pipeline(parameters.model_copy(update={"only": "evaluate"}), NIGHTLY_EVALUATION)


@flow(name="sweeper", persist_result=False)
def sweeper() -> int:
    """End what the dead left: workspaces, drafts, leases, runs, jobs; gives the folders' number."""
    with _called() as caller:
        services = caller.services
        swept = sweep(services.contract, grace_s=services.settings.staging_grace_s)
        ttl_s = services.settings.lease_ttl_s
        held = services.catalog.leased(ttl_s=ttl_s)
        orphans = services.launcher.reconcile(held, grace_s=2 * ttl_s)
    get_run_logger().info(
        "removed %d folders, ended %d runs, %d leases and %d jobs of a cluster",
        *(swept.folders, swept.runs, swept.leases, orphans),
    )
    return swept.folders


@flow(name="lineage-exporter", persist_result=False)
def lineage_exporter() -> int:
    """Tell the lineage sink what waits in the outbox; gives the number of events told."""
    with _called() as caller:
        told = tell_lineage(caller.services)
    if told is None:
        get_run_logger().info("no lineage sink: set INTERLOOM_OPENLINEAGE_URL or _FILE")
        return 0
    get_run_logger().info("told %d events, %d wait %s", told.num_told, told.num_left, told.error)
    return told.num_told


@flow(name="reconciler", persist_result=False)
def reconciler(*, every_byte: bool = False) -> int:
    """Compare what is published with the store; gives the number of artifacts that are not whole.

    Each is named in the log, with the versions and models that hang on it.
    """
    num_lost = 0
    with _called() as caller:
        for lost in reconcile(caller.services.contract, every_byte=every_byte):
            num_lost += 1
            get_run_logger().error("%s", describe_lost(lost))
    return num_lost


def _run_pipeline(parameters: PipelineParameters, job: str) -> str:
    """Execute the steps, and show Prefect what came of them."""
    recipe, steps = parameters.load()
    with _called() as caller:
        services = caller.services
        sweep(services.contract, grace_s=services.settings.staging_grace_s)
        with pipeline_run(services.contract, recipe, job) as run_id:
            schedule = _Schedule(
                services, recipe, run_id, caller.listener, frozenset(parameters.fresh)
            )
            corpora = named_corpora(services.catalog, recipe)
            if CALLER.get(None) is None:  # whoever calls has asked before
                plan = resolve(services.contract, recipe, steps, corpora, fresh=parameters.fresh)
                services.launcher.check(plan.demand)
            inputs = Inputs(named=corpora, blocked=blocked_entries(services.catalog))
            _show_results(recipe, schedule.run(steps, inputs))
    return run_id


@contextmanager
def _called() -> Iterator[Caller]:
    """Whoever called the flow; for a deployed one, services of its own and Prefect's log."""
    caller = CALLER.get(None)
    if caller is not None:
        yield caller
        return
    services = limited(connect(load_settings()))
    try:
        yield Caller(services, _PrefectLog())
    finally:
        services.close()


@dataclass(frozen=True, slots=True)
class _Schedule:
    """Runs steps as soon as their inputs are there and enough processor threads are free."""

    services: Services
    recipe: Recipe
    run_id: str
    listener: RunListener
    fresh: frozenset[str] = frozenset()
    futures: dict[str, PrefectFuture[StageOutcome]] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)

    def run(self, steps: Sequence[Step], inputs: Inputs) -> Inputs:
        """Run all; gives the inputs with every result.

        An error or an interrupt ends the stages that still run before it is passed on.
        """
        done: SimpleQueue[str] = SimpleQueue()
        waiting = list(steps)
        try:
            while waiting or self.busy:
                waiting = self._submit_ready(waiting, inputs, done.put)
                stage = done.get()
                del self.busy[stage]
                inputs = inputs.with_result(stage, self.futures[stage].result().result)
        except BaseException as error:
            self.services.launcher.stop(leaves_jobs=is_moving(error))
            raise
        return inputs

    def _submit_ready(
        self, waiting: Sequence[Step], inputs: Inputs, tell: Callable[[str], None]
    ) -> list[Step]:
        """Submit what can run now, in the pipeline's order; gives what is left."""
        limit = self.services.settings.num_threads
        left = list[Step]()
        for step in waiting:
            if not inputs.results.keys() >= set(step.after):
                left.append(step)
                continue
            call = stage_call(self.recipe, step, inputs, self.run_id)
            call = replace(call, is_fresh=step.stage in self.fresh)
            demand = min(call.num_ranks * call.threads_per_rank, limit)
            if sum(self.busy.values()) + demand > limit:
                left.append(step)
                continue
            self.busy[step.stage] = demand
            self._submit(step, call, tell)
        return left

    def _submit(self, step: Step, call: StageCall, tell: Callable[[str], None]) -> None:
        delays = self.services.settings.retry_delays_s
        runnable = stage_task.with_options(
            name=step.stage, retries=len(delays), retry_delay_seconds=list(delays)
        )
        work = StageWork(self.services.contract, call, self.listener)
        before = [self.futures[name] for name in step.after]
        future = runnable.submit(work, wait_for=before, return_state=False)
        self.futures[step.stage] = future
        future.add_done_callback(lambda _: tell(step.stage))


@dataclass(slots=True)
class _LoggedNotes:
    """Puts into Prefect's log what a stage waits for; how far it is stands in its own log."""

    stage: str
    last: str = ""

    def update(self, done: int, total: int | None, note: str = "") -> None:
        if note and note != self.last and total is None and done == 0:
            self.last = note
            get_run_logger().info("%s: %s", self.stage, note)


class _PrefectLog:
    """A listener for flows that nobody watches: lines in Prefect's log."""

    def started(self, stage: str) -> Progress:
        get_run_logger().info("%s: started", stage)
        return _LoggedNotes(stage)

    def reused(self, stage: str) -> None:
        get_run_logger().info("%s: reused", stage)

    def finished(self, stage: str, wall_s: float) -> None:
        get_run_logger().info("%s: done in %.0f s", stage, wall_s)

    def failed(self, stage: str, error: BaseException) -> None:
        get_run_logger().error("%s: failed: %s", stage, error)


def _show_results(recipe: Recipe, inputs: Inputs) -> None:
    """Put the run's metrics into Prefect's artifacts."""
    rows: list[Mapping[str, Any]] = [
        {"stage": stage, "metric": name, "value": round(value, 4)}
        for stage, result in inputs.results.items()
        for name, value in result_metrics(result)
    ]
    create_table_artifact(
        table=[dict(row) for row in rows],
        key=f"results-{recipe.name.replace('.', '-').replace('_', '-')}",
        description=f"Results of recipe {recipe.name}",
    )
