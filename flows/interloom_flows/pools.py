"""Flows on a cluster: how many stages a pool takes at once, and what a SIGTERM means."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run

from interloom.bootstrap import Services
from interloom.ports.launcher import JobReport, Launcher, StageJob
from interloom.ports.progress import Progress


def limit_name(pool: str) -> str:
    """The name of a pool's limit at the Prefect server; ``interloom deploy`` makes it."""
    return f"interloom-{pool}"


@dataclass(frozen=True, slots=True)
class LimitedLauncher:
    """A launcher whose stages take a place in their pool while they run.

    The places are leased from the Prefect server, so a flow that dies gives them back. A pool
    without a limit has as many as are asked for.
    """

    inner: Launcher

    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        """Wait for a place, then run."""
        pool = self.inner.pool(job.stage)
        if pool is None:
            return self.inner.run(job, progress=progress)
        progress.update(0, None, f"waits for a place in pool {pool}")
        with concurrency(limit_name(pool), occupy=1, strict=False):
            return self.inner.run(job, progress=progress)

    def check(self, demand: Mapping[str, int]) -> None:
        """Let the inner launcher do it."""
        self.inner.check(demand)

    def pool(self, stage: str) -> str | None:
        """As the inner launcher says."""
        return self.inner.pool(stage)

    def stop(self, *, leaves_jobs: bool = False) -> None:
        """Stop the inner launcher."""
        self.inner.stop(leaves_jobs=leaves_jobs)

    def reconcile(self, held: Collection[str], *, grace_s: float) -> int:
        """Let the inner launcher do it."""
        return self.inner.reconcile(held, grace_s=grace_s)


def limited(services: Services) -> Services:
    """The same services, with a launcher that keeps to the pools' limits."""
    launcher = LimitedLauncher(services.launcher)
    contract = replace(services.contract, launcher=launcher)
    return replace(services, launcher=launcher, contract=contract)


def is_moving(error: BaseException) -> bool:
    """Whether the flow run was told to end in order to go on elsewhere: a drained node.

    Prefect ends a run that a person cancels in the same way, so its state is asked for. While the
    server is away nobody can say; then jobs go on, and the sweeper ends what nobody takes over.
    """
    if not isinstance(error, TerminationSignal):
        return False
    run_id = flow_run.id
    if run_id is None:
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
    except (HTTPError, RuntimeError):
        return True
    return state is None or not (state.is_cancelling() or state.is_cancelled())
