"""Give what was taken in a name and a version in the catalog."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from interloom.bootstrap import Services
from interloom.config.corpora import TakeIn
from interloom.core.artifacts import canonical_json
from interloom.core.ids import new_run_id
from interloom.corpora.intake import IngestOutcome
from interloom.ports.catalog import DatasetVersion, RunStart
from interloom.stages.leasing import held_run

if TYPE_CHECKING:
    from interloom.language_model.bases import ImportedBase
    from interloom.speech_tokenizer.importing import ImportedTokenizer


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
    start = _start(kind, options, path)
    with held_run(services.catalog, start, ttl_s=services.settings.lease_ttl_s) as run_id:
        outcome = make()
        corpus = services.store.manifest(outcome.corpus)
        version = services.catalog.publish_dataset(options.name, corpus, run_id)
        report = services.store.manifest(outcome.report)
        services.catalog.publish_dataset(f"{options.name}.report", report, run_id)
    return outcome, version


def publish_tokenizer(
    services: Services, options: TakeIn, folder: Path
) -> tuple["ImportedTokenizer", DatasetVersion]:
    """Take in the weights of a speech tokenizer and publish them, in a run of its own."""
    from interloom.speech_tokenizer.importing import import_tokenizer

    start = _start("tokenizer", options, folder)
    with held_run(services.catalog, start, ttl_s=services.settings.lease_ttl_s) as run_id:
        imported = import_tokenizer(folder, licence=options.licence, store=services.store)
        model = services.store.manifest(imported.ref)
        version = services.catalog.publish_dataset(options.name, model, run_id)
    return imported, version


def publish_base(
    services: Services, options: TakeIn, folder: Path
) -> tuple["ImportedBase", DatasetVersion]:
    """Take in a text model to start from and publish it, in a run of its own."""
    from interloom.language_model.bases import import_base

    start = _start("base", options, folder)
    with held_run(services.catalog, start, ttl_s=services.settings.lease_ttl_s) as run_id:
        imported = import_base(folder, licence=options.licence, store=services.store)
        model = services.store.manifest(imported.ref)
        version = services.catalog.publish_dataset(options.name, model, run_id)
    return imported, version


def _start(kind: str, options: TakeIn, path: Path) -> RunStart:
    """The run that takes something in."""
    request = {"path": str(path), "options": options.model_dump(mode="json")}
    return RunStart(
        new_run_id(),
        f"ingest_{kind}",
        options.name,
        request_json=canonical_json(request).decode(),
    )
