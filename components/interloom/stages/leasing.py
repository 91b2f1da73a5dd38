"""Holding a lease while something runs, and ending what the dead have left running."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from interloom.core.errors import CrashError, LeaseLostError, TransientError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import Catalog, Lease, RunStart, RunState
from interloom.stages.owner import is_dead, owner_of

_LOG = logging.getLogger(__name__)
_DIED = "its runner died"
_CLEANING = "clean-up"  # the key of the lease under which a store is cleaned


def take(catalog: Catalog, key: str, owner: str, *, ttl_s: float) -> Lease | None:
    """Take a lease if it is free, if its owner was silent for so long, or is known to be dead."""
    holder = catalog.lease_owner(key)
    dead = holder if holder is not None and is_dead(holder) else None
    return catalog.acquire(key, owner, ttl_s=ttl_s, dead_owner=dead)


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
    from one that was killed. It waits for a clean-up that goes on; the next one waits for it.
    """
    lease = catalog.acquire(start.run_id, owner_of(start.run_id), ttl_s=ttl_s)
    if lease is None:
        raise CrashError(f"the run {start.run_id} is held already: an id is given to one run only")
    catalog.start_run(start)
    with beating(catalog, lease, ttl_s=ttl_s):
        try:
            _await_clean_up(catalog, ttl_s=ttl_s)
            yield start.run_id
        except Exception as error:
            end_quietly(catalog, start.run_id, RunState.FAILED, str(error) or type(error).__name__)
            raise
        except BaseException as error:
            end_quietly(catalog, start.run_id, RunState.ABORTED, type(error).__name__)
            raise
        catalog.end_run(start.run_id, RunState.COMPLETE)


@contextmanager
def alone(catalog: Catalog, *, ttl_s: float) -> Iterator[None]:
    """Hold the store for a clean-up: no run goes on, and none reads before the block ends.

    A run takes its lease before it looks for a clean-up, and a clean-up takes its own before it
    looks for runs, so that one of the two always sees the other.

    Raises:
        TransientError: A run, or another clean-up, goes on.
    """
    lease = take(catalog, _CLEANING, owner_of(new_run_id()), ttl_s=ttl_s)
    if lease is None:
        raise TransientError("another clean-up is going on; wait for it to end")
    with beating(catalog, lease, ttl_s=ttl_s):
        if catalog.leased(ttl_s=ttl_s) - {_CLEANING}:
            raise TransientError("a run goes on and may need what would go; clean up when it ends")
        yield


def _await_clean_up(catalog: Catalog, *, ttl_s: float) -> None:
    """Wait until nobody cleans the store."""
    is_told = False
    while _CLEANING in catalog.leased(ttl_s=ttl_s):
        if is_dead(catalog.lease_owner(_CLEANING) or ""):
            return
        if not is_told:
            _LOG.warning("waiting for a clean-up of the store to end")
            is_told = True
        time.sleep(min(1.0, ttl_s / 10))


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
