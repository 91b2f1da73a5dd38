"""Cleaning up after the dead: workspaces, drafts, leases, runs; and rows without their bytes."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError, MissingError
from interloom.ports.catalog import Catalog
from interloom.ports.store import ArtifactStore
from interloom.stages.contract import StageContract
from interloom.stages.leasing import end_dead_runs

COLLECTED = "gc"  # the action, in the audit, of removing what nobody needs


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep came to.

    Attributes:
        folders: Workspaces and drafts removed.
        runs: Runs ended as aborted because nobody executes them.
        leases: Leases taken from owners that were silent for too long.
    """

    folders: int
    runs: int
    leases: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A published artifact whose bytes are not all there.

    Attributes:
        artifact: Which.
        what: What is missing or damaged.
        names: Its named versions, as ``name@version``.
        num_models: Models that were made from it.
        is_rebuildable: Whether a stage made it, so that running its recipe makes it anew.
    """

    artifact: ArtifactRef
    what: str
    names: tuple[str, ...]
    num_models: int
    is_rebuildable: bool


def sweep(contract: StageContract, *, grace_s: float) -> Swept:
    """Clean up after the dead: remove their workspaces and drafts, end their runs and leases.

    Args:
        contract: The installation.
        grace_s: What was touched after so many seconds ago is left alone.
    """
    catalog = contract.catalog
    runs = end_dead_runs(catalog)
    runs += catalog.close_dead_runs(ttl_s=contract.lease_ttl_s, grace_s=grace_s)
    leases = catalog.expire_leases(ttl_s=contract.lease_ttl_s)
    leased = catalog.leased(ttl_s=contract.lease_ttl_s)
    removed = contract.store.sweep(grace_s=grace_s)
    for folder in contract.work_folder.glob("*"):
        if folder.name not in leased and time.time() - _touched_s(folder) >= grace_s:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return Swept(removed, runs, leases)


def reconcile(contract: StageContract, *, every_byte: bool = False) -> Iterator[Lost]:
    """Compare every published artifact with the store; gives those whose bytes were lost.

    Nothing is changed: a stage whose result is not whole is executed again by the next run that
    wants it, and a named version says which recipe that is.
    """
    catalog, after = contract.catalog, ""
    while batch := catalog.artifacts(after=after):
        after = batch[-1].id
        for ref in batch:
            try:
                contract.store.verify(ref, every_byte=every_byte)
            except (DataError, MissingError) as error:
                if not was_collected(catalog, contract.store, ref):
                    yield _lost(contract, ref, str(error))


def was_collected(catalog: Catalog, store: ArtifactStore, ref: ArtifactRef) -> bool:
    """Whether an artifact is not in the store because garbage collection removed it."""
    return not store.holds(ref) and any(
        entry.action == COLLECTED for entry in catalog.audit(subject=f"{ref.kind}:{ref.id}")
    )


def _lost(contract: StageContract, ref: ArtifactRef, what: str) -> Lost:
    catalog = contract.catalog
    made_by = catalog.producer(ref)
    return Lost(
        artifact=ref,
        what=what,
        names=tuple(f"{held.name}@{held.version}" for held in catalog.names([ref])),
        num_models=sum(found.kind.is_model for found in catalog.descendants([ref])),
        is_rebuildable=made_by is not None and catalog.run(made_by).stage_key is not None,
    )


def _touched_s(folder: Path) -> float:
    """When something in a folder was last written; now, if it changes while we look."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return time.time()
