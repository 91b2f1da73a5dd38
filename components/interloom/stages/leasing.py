"""Holding a lease while something runs, and ending what the dead have left running."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from interloom.core.errors import CrashError, LeaseLostError, TransientError
from interloom.ports.catalog import Catalog, Lease, RunStart, RunState
from interloom.stages.owner import is_dead, owner_of

_DIED = "its runner died"


@contextmanager
def beating(catalog: Catalog, lease: Lease, *, ttl_s: float) -> Iterator[None]:
    """Renew the lease from a thread, and release it on leaving.

    A database that is away is no reason to stop: the lease is only lost when another takes it.
    """
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(ttl_s / 4):
            try:
                catalog.renew(lease)
            except LeaseLostError:
                return  # publishing will refuse
            except TransientError:
                continue  # the next beat may come through in time

    thread = threading.Thread(target=beat, name=f"lease-{lease.stage_key[:10]}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        with suppress(TransientError):  # it grows old by itself
            catalog.release(lease)


@contextmanager
def held_run(catalog: Catalog, start: RunStart, *, ttl_s: float) -> Iterator[str]:
    """A run that is no stage's, such as a pipeline's; it ends as the block does. Gives its id.

    While the block runs, the run's own lease is held, so that anyone can tell a run that goes on
    from one that was killed.
    """
    lease = catalog.acquire(start.run_id, owner_of(start.run_id), ttl_s=ttl_s)
    if lease is None:
        raise CrashError(f"the run {start.run_id} is held already: an id is given to one run only")
    catalog.start_run(start)
    with beating(catalog, lease, ttl_s=ttl_s):
        try:
            yield start.run_id
        except Exception as error:
            end_quietly(catalog, start.run_id, RunState.FAILED, str(error) or type(error).__name__)
            raise
        except BaseException as error:
            end_quietly(catalog, start.run_id, RunState.ABORTED, type(error).__name__)
            raise
        catalog.end_run(start.run_id, RunState.COMPLETE)


def end_quietly(catalog: Catalog, run_id: str, state: RunState, error: str) -> None:
    """End a run that failed; a database that is away must not hide why."""
    with suppress(TransientError):
        catalog.end_run(run_id, state, error)


def end_dead_runs(catalog: Catalog) -> int:
    """End the running runs whose process is known to be gone, at once; returns how many.

    It costs one query when nothing runs.
    """
    ended = 0
    for run in catalog.running():
        owner = catalog.lease_owner(run.stage_key or run.run_id)
        if owner is not None and is_dead(owner):
            catalog.end_run(run.run_id, RunState.ABORTED, _DIED)
            ended += 1
    return ended
