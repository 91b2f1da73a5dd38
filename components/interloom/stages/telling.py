"""Telling a lineage sink what happened, from the outbox. A sink that is down fails no run."""

import logging
from dataclasses import dataclass

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError, InterloomError, MissingError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import Catalog, OutboxEntry
from interloom.ports.events import EventDataset, EventSink, LineageEvent
from interloom.ports.store import ArtifactStore
from interloom.stages.leasing import take
from interloom.stages.owner import owner_of

_KEY = "outbox"  # of the lease: events keep their order, so one teller at a time
_FIRST_WAIT_S = 10.0
_LONGEST_WAIT_S = 3600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What came of emptying the outbox.

    Attributes:
        num_told: Events that the sink took.
        num_left: Events that wait.
        error: Why it was stopped; empty if all were told.
    """

    num_told: int
    num_left: int
    error: str = ""


def tell_events(
    catalog: Catalog, store: ArtifactStore, sink: EventSink, *, ttl_s: float = 60.0
) -> Told:
    """Tell the sink every event that waits, oldest first, until it refuses one.

    A refused event is tried again after 10 s, then after twice as long each time, up to an hour;
    those behind it wait, so that a sink never hears the end of a run before its beginning. An event
    may be told twice when the teller is killed between telling and forgetting it, never not at all.
    """
    num_told, error = 0, ""
    try:
        lease = take(catalog, _KEY, owner_of(new_run_id()), ttl_s=ttl_s)
        if lease is None:
            return Told(0, catalog.num_untold(), "another process is telling them")
        try:
            while not error and (entries := catalog.due_events()):
                for entry in entries:
                    error = _tell(catalog, store, sink, entry)
                    if error:
                        break
                    num_told += 1
                    catalog.renew(lease)
        finally:
            catalog.release(lease)
        return Told(num_told, catalog.num_untold(), error)
    except InterloomError as failure:  # the catalog is away: the events are safe in it
        _log.warning("lineage events wait in the outbox: %s", failure)
        return Told(num_told, 0, str(failure))


def _tell(catalog: Catalog, store: ArtifactStore, sink: EventSink, entry: OutboxEntry) -> str:
    """Tell one event; gives what went wrong."""
    try:
        sink.tell(event_of(catalog, store, entry))
    except InterloomError as error:
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(entry.num_attempts, 16))
        catalog.event_failed(entry.seq, str(error), retry_in_s=wait_s)
        _log.warning("lineage event %d is tried again in %.0f s: %s", entry.seq, wait_s, error)
        return str(error)
    catalog.event_told(entry.seq)
    return ""


def event_of(catalog: Catalog, store: ArtifactStore, entry: OutboxEntry) -> LineageEvent:
    """An event with what the catalog knows of its run."""
    run = catalog.run(entry.run_id)
    parent = catalog.run(run.parent_run_id) if run.parent_run_id is not None else None
    if entry.type == "START":
        return LineageEvent(entry.type, entry.at, run, parent)
    edges = catalog.edges([run.run_id])
    inputs = [_dataset(catalog, store, edge.artifact) for edge in edges if not edge.is_output]
    outputs = [_dataset(catalog, store, edge.artifact) for edge in edges if edge.is_output]
    return LineageEvent(
        type=entry.type,
        at=entry.at,
        run=run,
        parent=parent,
        inputs=[held for held in inputs if held is not None],
        outputs=[held for held in outputs if held is not None],
        mixture=catalog.mixture(run.run_id),
        checks=catalog.run_checks(run.run_id),
    )


def _dataset(catalog: Catalog, store: ArtifactStore, ref: ArtifactRef) -> EventDataset | None:
    """An artifact by its first name; None if the store has lost its manifest."""
    try:
        manifest = store.manifest(ref)
    except (DataError, MissingError):
        return None
    names = catalog.names([ref])
    points = catalog.checkpoints(ref)
    step = points[-1].step if points else None
    if not names:
        return EventDataset(f"{ref.kind}/{ref.id}", None, manifest, step)
    return EventDataset(names[0].name, names[0].version, manifest, step)
