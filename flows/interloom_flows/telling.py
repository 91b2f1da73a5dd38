"""Tell the lineage sink of an installation, if it has one, what is in the outbox."""

from interloom.bootstrap import Services, open_event_sink
from interloom.stages.telling import Told, tell_events


def tell_lineage(services: Services) -> Told | None:
    """Empty the outbox as far as the sink takes it; None if the installation has no sink.

    Whatever goes wrong is in the answer and in the outbox: lineage never fails a run.
    """
    sink = open_event_sink(services.settings)
    if sink is None:
        return None
    return tell_events(services.catalog, services.store, sink)
