"""Bring speech, text, dialogues and tasks into the run, with the tokenizer of their text."""

from typing import Literal

from interloom.config.corpora import IngestConfig
from interloom.core.artifacts import ArtifactRef
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult


class IngestRequest(StageRequest):
    """What to build or take in.

    ``speech``, ``text`` and ``dialogues`` are what the names of a ``catalog`` source stand for; a
    ``starter`` source has none.
    """

    config: IngestConfig
    speech: ArtifactRef | None = None
    text: ArtifactRef | None = None
    dialogues: ArtifactRef | None = None
    seed: int = 0
    version: Literal[1] = 1


class IngestResult(StageResult):
    """The corpora of a run: tables ``utterances``, ``documents``, ``dialogues``, and the tasks'
    ``cloze`` and ``questions``.
    """

    speech: ArtifactRef
    text: ArtifactRef
    dialogues: ArtifactRef
    tasks: ArtifactRef
    text_tokenizer: ArtifactRef


def ingest(request: IngestRequest, *, store: ArtifactStore, work: Workspace) -> IngestResult:
    """Build the starter world, or split corpora of the catalog and derive tasks from them.

    Raises:
        ConfigError: A catalog source without its artifacts, or a starter source with some.
        DataError: A corpus has no row to train on.
    """
    from interloom.corpora.assemble import assemble_catalog, assemble_world  # heavy

    if request.config.source.kind == "starter":
        made = assemble_world(
            request.config, seed=request.seed, store=store, progress=work.progress
        )
    else:
        made = assemble_catalog(
            request.config,
            (request.speech, request.text, request.dialogues),
            seed=request.seed,
            store=store,
        )
    return IngestResult(**made)
