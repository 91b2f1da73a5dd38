"""Give what was taken in a name and a version in the catalog."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from interloom.bootstrap import Services
from interloom.config.corpora import TakeIn
from interloom.core.artifacts import ArtifactRef, canonical_json
from interloom.core.ids import new_run_id
from interloom.corpora.intake import IngestOutcome
from interloom.ports.catalog import DatasetVersion, RunStart
from interloom.stages.leasing import held_run


class Imported(Protocol):
    """What taking in a model gives."""

    @property
    def ref(self) -> ArtifactRef:
        """The stored model."""
        ...


Taken = TypeVar("Taken", bound=Imported)


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


def publish_weights(
    services: Services, kind: str, options: TakeIn, folder: Path, take: Callable[..., Taken]
) -> tuple[Taken, DatasetVersion]:
    """Take in a model of somebody else's and publish it, in a run of its own.

    Args:
        services: Store and catalog.
        kind: ``tokenizer`` or ``base``.
        options: Gives its name and licence.
        folder: As Hugging Face publishes it.
        take: Reads it into the store.
    """
    start = _start(kind, options, folder)
    with held_run(services.catalog, start, ttl_s=services.settings.lease_ttl_s) as run_id:
        imported = take(folder, licence=options.licence, store=services.store)
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
