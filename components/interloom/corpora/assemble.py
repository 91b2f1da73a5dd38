"""The artifacts that a run begins with, from the starter world or from ingested corpora."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from interloom.config.corpora import CatalogCorpora, IngestConfig, StarterWorld
from interloom.core.artifacts import ArtifactKind, ArtifactRef, parse_ref
from interloom.core.errors import ConfigError, DataError
from interloom.corpora import derive
from interloom.corpora.permission import BlockList, require_consents, require_licences
from interloom.corpora.tables import (
    CLOZE,
    DIALOGUES,
    DOCUMENTS,
    ENDINGS,
    LABELLED_UTTERANCES,
    QUESTIONS,
    UTTERANCES,
    Row,
    read_table,
    write_table,
)
from interloom.corpora.world import dialogues, documents
from interloom.corpora.world.build import build_world
from interloom.corpora.world.speech import utterances
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore
from interloom.text.bpe import FILE, TextTokenizer, load_text_tokenizer

Made = dict[str, ArtifactRef]
_UTTERANCES_PER_SHARD = 1024


def assemble_world(
    config: IngestConfig,
    source: StarterWorld,
    *,
    seed: int,
    store: ArtifactStore,
    progress: Progress,
    blocked: BlockList,
) -> Made:
    """Build the starter world's speech, text, dialogues, tasks and text tokenizer.

    The same configuration, seed and block list give the same bytes.

    Raises:
        DataError: The recipe does not allow the world's licence.
    """
    require_licences(config.only_licences, {"the starter world": (documents.LICENCE,)})
    world = build_world(source, seed=seed, heldout_share=config.heldout_share)

    def texts() -> Iterator[Row]:
        yield from documents.story_documents(world, source.num_stories)
        yield from documents.fact_documents(world, "written", source.num_written_documents)
        yield from documents.fact_documents(world, "woven", source.num_woven_documents)

    spoken = blocked.keep(utterances(world, source.speech_seconds, progress))
    licences = (documents.LICENCE,)
    made = {
        "speech": write_speech(store, spoken, licences=licences),
        "text": _write(
            store,
            ArtifactKind.TEXT_CORPUS,
            {"documents": (DOCUMENTS, blocked.keep(texts()))},
            licences=licences,
        ),
        "dialogues": _write(
            store,
            ArtifactKind.DIALOGUE_CORPUS,
            {
                "dialogues": (
                    DIALOGUES,
                    blocked.keep(dialogues.dialogues(world, source.num_dialogues)),
                )
            },
            licences=licences,
        ),
        "tasks": _write(
            store,
            ArtifactKind.TASKS,
            {
                "cloze": (CLOZE, dialogues.cloze(world)),
                "questions": (QUESTIONS, dialogues.questions(world)),
            }
            | ({"endings": (ENDINGS, dialogues.endings(world))} if source.has_endings else {}),
            licences=licences,
        ),
    }
    return with_text_tokenizer(store, made, config)


def assemble_catalog(
    config: IngestConfig,
    source: CatalogCorpora,
    inputs: Mapping[str, ArtifactRef | None],
    *,
    seed: int,
    store: ArtifactStore,
    blocked: BlockList,
) -> Made:
    """Split ingested corpora and derive what they do not hold.

    Rows go to a split by a hash of their id and the seed, so that adding rows moves no others.

    Raises:
        ConfigError: The source names a corpus that the request does not hold.
        DataError: A corpus has no row for training, or none that is held out, or holds rows under
            a licence or a consent that the recipe does not allow.
    """
    speech, text = _needed(inputs, "speech"), _needed(inputs, "text")
    spoken_dialogues = inputs["dialogues"]
    if source.dialogues is not None and spoken_dialogues is None:
        _needed(inputs, "dialogues")
    given = [ref for ref in inputs.values() if ref is not None]
    manifests = {str(ref): store.manifest(ref) for ref in given}
    held = {name: blocked.allowed(manifest.licences) for name, manifest in manifests.items()}
    require_licences(config.only_licences, held)
    require_consents(config.only_consents, manifests)
    splits = derive.Splits(seed=seed, heldout_share=config.heldout_share, blocked=blocked)
    made = {
        "speech": write_speech(
            store,
            splits.spoken(read_table(store, speech, "utterances"), source.heldout_speakers),
            licences=held[str(speech)],
            parents=(speech,),
            labelled_by=store.manifest(speech).facts.get("labelled_by"),
        ),
        "text": _resplit(store, splits, text, "documents"),
    }
    for name, ref in made.items():
        _check_splits(store, ref, name)
    made["dialogues"] = (
        _resplit(store, splits, spoken_dialogues, "dialogues")
        if spoken_dialogues is not None
        else _derived_dialogues(store, made["text"], source)
    )
    made["tasks"] = _derived_tasks(store, made, source, seed=seed)
    return with_text_tokenizer(store, made, config)


def write_speech(
    store: ArtifactStore,
    rows: Iterable[Row],
    *,
    licences: Iterable[str] = (),
    parents: tuple[ArtifactRef, ...] = (),
    labelled_by: str | None = None,
) -> ArtifactRef:
    """A speech corpus of these utterances, some labelled by a recogniser if one is named."""
    schema = UTTERANCES if labelled_by is None else LABELLED_UTTERANCES
    facts = {} if labelled_by is None else {"labelled_by": labelled_by}
    with store.draft(ArtifactKind.SPEECH_CORPUS) as draft:
        write_table(draft, "utterances", schema, rows, rows_per_shard=_UTTERANCES_PER_SHARD)
        return draft.commit(parents=parents, licences=tuple(licences), facts=facts)


def with_text_tokenizer(store: ArtifactStore, made: Made, config: IngestConfig) -> Made:
    """Add the tokenizer of all text that is for training, or the one that the recipe names.

    Raises:
        ConfigError: The named one has another number of ids than the recipe says.
    """
    if config.text_tokenizer is not None:
        named = parse_ref(config.text_tokenizer)
        held = load_text_tokenizer(store, named).vocab_size
        if held != config.text_vocab_size:
            raise ConfigError(
                f"{named} has {held} ids, ingest.text_vocab_size is {config.text_vocab_size}; "
                f"set it to {held}"
            )
        return {**made, "text_tokenizer": named}
    tokenizer = TextTokenizer.train(_all_texts(store, made), vocab_size=config.text_vocab_size)
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard(FILE) as shard:
            tokenizer.save(shard.path)
        ref = draft.commit(
            parents=tuple(made[name] for name in ("speech", "text", "dialogues")),
            facts={"vocab_size": tokenizer.vocab_size},
        )
    return {**made, "text_tokenizer": ref}


def _all_texts(store: ArtifactStore, made: Made) -> Iterator[str]:
    """Every text for training, in the order of the tables."""
    for name, table in (("speech", "utterances"), ("text", "documents")):
        for row in read_table(store, made[name], table, split="train", columns=["text"]):
            yield row["text"]
    for row in read_table(store, made["dialogues"], "dialogues", split="train"):
        for turn in row["turns"]:
            yield turn["text"]


def _write(
    store: ArtifactStore,
    kind: ArtifactKind,
    tables: Mapping[str, tuple[pa.Schema, Iterable[Row]]],
    *,
    licences: Iterable[str],
    parents: tuple[ArtifactRef, ...] = (),
) -> ArtifactRef:
    """An artifact of these tables."""
    with store.draft(kind) as draft:
        for name, (schema, rows) in tables.items():
            write_table(draft, name, schema, rows)
        return draft.commit(parents=parents, licences=tuple(licences))


_SCHEMAS = {"documents": DOCUMENTS, "dialogues": DIALOGUES}


def _resplit(
    store: ArtifactStore, splits: derive.Splits, ref: ArtifactRef, table: str
) -> ArtifactRef:
    """The same rows, split."""
    return _write(
        store,
        ref.kind,
        {table: (_SCHEMAS[table], splits.rows(read_table(store, ref, table)))},
        licences=splits.blocked.allowed(store.manifest(ref).licences),
        parents=(ref,),
    )


def _derived_dialogues(
    store: ArtifactStore, text: ArtifactRef, source: CatalogCorpora
) -> ArtifactRef:
    """Dialogues out of documents, when no others were given."""
    rows = derive.dialogues_from_documents(
        read_table(store, text, "documents"), limit=source.max_dialogues
    )
    return _write(
        store,
        ArtifactKind.DIALOGUE_CORPUS,
        {"dialogues": (DIALOGUES, rows)},
        licences=store.manifest(text).licences,
        parents=(text,),
    )


def _derived_tasks(
    store: ArtifactStore, made: Made, source: CatalogCorpora, *, seed: int
) -> ArtifactRef:
    """Cloze pairs out of held-out documents, questions out of held-out dialogues."""
    heldout: list[dict[str, Any]] = list(
        read_table(store, made["text"], "documents", split="heldout")
    )
    asked = read_table(store, made["dialogues"], "dialogues", split="heldout")
    return _write(
        store,
        ArtifactKind.TASKS,
        {
            "cloze": (CLOZE, derive.cloze(heldout, seed=seed, limit=source.max_cloze)),
            "questions": (QUESTIONS, derive.questions(asked, limit=source.max_questions)),
        },
        licences=store.manifest(made["text"]).licences,
        parents=(made["text"], made["dialogues"]),
    )


def _needed(inputs: Mapping[str, ArtifactRef | None], name: str) -> ArtifactRef:
    """The input of this name.

    Raises:
        ConfigError: There is none.
    """
    ref = inputs[name]
    if ref is None:
        raise ConfigError(
            f"a catalog source needs the artifact of its {name} corpus, got none; "
            f"next: interloom ingest {name} PATH --name NAME"
        )
    return ref


def _check_splits(store: ArtifactStore, ref: ArtifactRef, name: str) -> None:
    """Refuse a corpus that has nothing to train on, or nothing to measure on.

    Raises:
        DataError: It lacks one of the splits.
    """
    table = "utterances" if name == "speech" else "documents"
    manifest = store.manifest(ref)
    for split in ("train", "heldout"):
        shards = manifest.shards_under(f"{table}/{split}-")
        if not sum(shard.counts.get("rows", 0) for shard in shards):
            raise DataError(
                f"the {name} corpus has no row in the split {split!r} (it has "
                f"{manifest.count('rows')} in all); next: ingest more rows, or change heldout_share"
            )
