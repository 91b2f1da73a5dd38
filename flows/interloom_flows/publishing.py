"""Give what was taken in a name and a version in the catalog."""

from collections.abc import Callable
from pathlib import Path

from interloom.bootstrap import Services
from interloom.config.corpora import TakeIn
from interloom.core.artifacts import canonical_json
from interloom.core.ids import new_run_id
from interloom.corpora.intake import IngestOutcome
from interloom.ports.catalog import DatasetVersion, RunStart, RunState


def publish_corpus(
    services: Services,
    kind: str,
    options: TakeIn,
    path: Path,
    make: Callable[[], IngestOutcome],
) -> tuple[IngestOutcome, DatasetVersion]:
    """Take a corpus in and publish it, with its report, in a run of its own.

    Args:
        services: Store and catalog.
        kind: ``speech``, ``text`` or ``dialogues``.
        options: How it is taken in; gives the name.
        path: Where it comes from; recorded with the run.
        make: Reads it into the store.
    """
    catalog, run_id = services.catalog, new_run_id()
    request = {"path": str(path), "options": options.model_dump(mode="json")}
    catalog.start_run(
        RunStart(
            run_id, f"ingest_{kind}", options.name, request_json=canonical_json(request).decode()
        )
    )
    try:
        outcome = make()
        version = catalog.publish_dataset(
            options.name, services.store.manifest(outcome.corpus), run_id
        )
        report = services.store.manifest(outcome.report)
        catalog.publish_dataset(f"{options.name}.report", report, run_id)
    except BaseException as error:
        is_expected = isinstance(error, Exception)
        state = RunState.FAILED if is_expected else RunState.ABORTED
        catalog.end_run(run_id, state, str(error) or type(error).__name__)
        raise
    catalog.end_run(run_id, RunState.COMPLETE)
    return outcome, version
