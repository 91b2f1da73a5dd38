"""Bring speech, text, dialogues and tasks into the run, with the tokenizer of their text."""

from collections.abc import Mapping
from typing import Literal, assert_never

from interloom.config.corpora import CatalogCorpora, IngestConfig, StarterWorld
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError
from interloom.ports.catalog import Metric
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult


class IngestRequest(StageRequest):
    """What to build or take in.

    ``speech``, ``text`` and ``dialogues`` are what the names of a ``catalog`` source stand for; a
    ``starter`` source has none. Rows of what is ``blocked`` are left out: ``source:NAME``,
    ``speaker:ID`` or ``licence:SPDX``.
    """

    config: IngestConfig
    speech: ArtifactRef | None = None
    text: ArtifactRef | None = None
    dialogues: ArtifactRef | None = None
    blocked: tuple[str, ...] = ()
    seed: int = 0
    version: Literal[1] = 1


class IngestResult(StageResult):
    """The corpora of a run.

    Tables: ``utterances``, ``documents``, ``dialogues``; of the tasks, ``cloze`` and ``questions``.
    """

    speech: ArtifactRef
    text: ArtifactRef
    dialogues: ArtifactRef
    tasks: ArtifactRef
    text_tokenizer: ArtifactRef


def ingest(request: IngestRequest, *, store: ArtifactStore, work: Workspace) -> IngestResult:
    """Build the starter world, or split corpora of the catalog and derive tasks from them.

    Metrics ``ingest/blocked/ENTRY`` count the rows that the block list kept out.

    Raises:
        ConfigError: A catalog source without its artifacts, or a starter source with some.
        DataError: A corpus has no row to train on, or rows under a licence or a consent that the
            recipe does not allow.
    """
    from interloom.corpora.assemble import assemble_catalog, assemble_world
    from interloom.corpora.permission import BlockList

    blocked = BlockList.of(request.blocked)
    inputs = {"speech": request.speech, "text": request.text, "dialogues": request.dialogues}
    match request.config.source:
        case StarterWorld() as source:
            if given := sorted(name for name, ref in inputs.items() if ref is not None):
                raise ConfigError(f"the starter source builds its corpora, but was given {given}")
            made = assemble_world(
                request.config,
                source,
                seed=request.seed,
                store=store,
                progress=work.progress,
                blocked=blocked,
            )
        case CatalogCorpora() as source:
            made = assemble_catalog(
                request.config, source, inputs, seed=request.seed, store=store, blocked=blocked
            )
        case _:
            assert_never(request.config.source)
    return IngestResult(
        speech=made["speech"],
        text=made["text"],
        dialogues=made["dialogues"],
        tasks=made["tasks"],
        text_tokenizer=made["text_tokenizer"],
        metrics=_sizes(store, made) + _dropped(blocked.dropped),
    )


def _sizes(store: ArtifactStore, made: Mapping[str, ArtifactRef]) -> tuple[Metric, ...]:
    """How much there is."""
    speech, text = store.manifest(made["speech"]), store.manifest(made["text"])
    return (
        Metric(name="ingest/speech_seconds", value=speech.count("samples") / 16_000),
        Metric(name="ingest/utterances", value=speech.count("rows")),
        Metric(name="ingest/documents", value=text.count("rows")),
        Metric(name="ingest/dialogues", value=store.manifest(made["dialogues"]).count("rows")),
    )


def _dropped(dropped: Mapping[str, int]) -> tuple[Metric, ...]:
    """How many rows the block list kept out."""
    return tuple(Metric(f"ingest/blocked/{entry}", dropped[entry]) for entry in sorted(dropped))
