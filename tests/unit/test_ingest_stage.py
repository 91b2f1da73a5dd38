"""The first stage: the starter world, or corpora of one's own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.config.corpora import CatalogCorpora, IngestConfig, StarterWorld, TakeIn
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.corpora import derive
from interloom.corpora.assemble import write_speech
from interloom.corpora.ingest_dialogue import ingest_dialogues
from interloom.corpora.ingest_text import ingest_text
from interloom.corpora.tables import read_table
from interloom.ports.progress import NoProgress
from interloom.ports.workspace import Workspace
from interloom.stages.ingest import IngestRequest, IngestResult, ingest
from interloom.testing.store import MemoryStore
from interloom.text.bpe import load_text_tokenizer

SMALL = StarterWorld(
    speech_seconds=15,
    num_stories=60,
    num_written_documents=33,
    num_woven_documents=33,
    num_dialogues=40,
    num_story_cloze=7,
)
OWN = IngestConfig(source=CatalogCorpora(speech="voices", text="texts"), heldout_share=0.2)

RUN = """
import sys
from pathlib import Path
from interloom.adapters.folder_store import FolderStore
from interloom.ports.workspace import Workspace
from interloom.stages.ingest import IngestRequest, ingest
folder = Path(sys.argv[1])
request = IngestRequest.model_validate_json(sys.argv[2])
print(ingest(request, store=FolderStore(folder), work=Workspace(folder)).model_dump_json())
"""


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def run(request: IngestRequest, store: MemoryStore, folder: Path) -> IngestResult:
    return ingest(request, store=store, work=Workspace(folder))


def test_the_starter_world_is_the_same_in_every_process(tmp_path: Path) -> None:
    request = IngestRequest(config=IngestConfig(source=SMALL))

    here = ingest(request, store=FolderStore(tmp_path / "a"), work=Workspace(tmp_path))
    there = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "b"), request.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert IngestResult.model_validate_json(there) == here


def test_the_starter_world_has_all_that_a_run_needs(store: MemoryStore, tmp_path: Path) -> None:
    result = run(IngestRequest(config=IngestConfig(source=SMALL)), store, tmp_path)

    documents = list(read_table(store, result.text, "documents"))
    assert len(documents) == 126
    assert len(list(read_table(store, result.dialogues, "dialogues"))) == 40
    assert len(list(read_table(store, result.tasks, "questions"))) == 96
    assert {row["group"] for row in read_table(store, result.tasks, "cloze")} == {
        "story",
        "written",
        "woven",
        "spoken",
    }
    assert result.metric("ingest/speech_seconds") >= 15
    assert store.manifest(result.speech).licences == ("CC0-1.0",)
    tokenizer = load_text_tokenizer(store, result.text_tokenizer)
    assert 257 < tokenizer.vocab_size <= 640
    text = documents[0]["text"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_another_seed_gives_another_world(store: MemoryStore, tmp_path: Path) -> None:
    config = IngestConfig(source=SMALL)

    first = run(IngestRequest(config=config), store, tmp_path)
    second = run(IngestRequest(config=config, seed=1), store, tmp_path)

    assert first.text != second.text
    assert first.speech != second.speech


def own_speech(store: MemoryStore, count: int = 60) -> ArtifactRef:
    rows: Iterator[dict[str, Any]] = (
        {
            "id": f"u{index}",
            "split": "train",
            "speaker": ("ann", "bea", "cem")[index % 3],
            "text": f"this is {index}",
            "audio": b"",
            "num_samples": 1600,
            "words": [],
            "source": "voices",
            "licence": "CC0-1.0",
            "facts": [],
        }
        for index in range(count)
    )
    return write_speech(store, rows, licences=("CC0-1.0",))


def own_text(store: MemoryStore, folder: Path, count: int = 60) -> ArtifactRef:
    path = folder / "texts.jsonl"
    lines = [f"here is {index}. it goes on. and so it ends." for index in range(count)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    options = TakeIn(name="texts", licence="MIT")
    return ingest_text(path, options, store=store, progress=NoProgress()).corpus


def own_dialogues(store: MemoryStore, folder: Path, count: int = 60) -> ArtifactRef:
    path = folder / "chats.jsonl"
    turns = [
        [{"role": "user", "text": f"how is {index}?"}, {"role": "assistant", "text": "well."}]
        for index in range(count)
    ]
    path.write_text("".join(json.dumps({"turns": one}) + "\n" for one in turns))
    options = TakeIn(name="chats")
    return ingest_dialogues(path, options, store=store, progress=NoProgress()).corpus


def test_own_corpora_are_split_and_tasks_are_derived(store: MemoryStore, tmp_path: Path) -> None:
    request = IngestRequest(config=OWN, speech=own_speech(store), text=own_text(store, tmp_path))

    result = run(request, store, tmp_path)

    splits = [row["split"] for row in read_table(store, result.speech, "utterances")]
    assert 0 < splits.count("heldout") < splits.count("train")
    heldout = list(read_table(store, result.text, "documents", split="heldout"))
    pairs = list(read_table(store, result.tasks, "cloze"))
    assert {pair["id"] for pair in pairs} == {row["id"] for row in heldout}
    assert all(
        f"{pair['context']} {pair['right']}" in row["text"]
        for pair, row in zip(pairs, heldout, strict=True)
    )
    asked = list(read_table(store, result.tasks, "questions"))
    assert {row["id"] for row in asked} == {row["id"] for row in heldout}
    assert store.manifest(result.text).parents == (request.text,)
    assert store.manifest(result.text).licences == ("MIT",)


def test_speakers_are_held_out_with_all_they_say(store: MemoryStore, tmp_path: Path) -> None:
    source = OWN.source.model_copy(update={"heldout_speakers": ("bea",)})
    config = OWN.model_copy(update={"source": source})
    request = IngestRequest(config=config, speech=own_speech(store), text=own_text(store, tmp_path))

    result = run(request, store, tmp_path)

    rows = list(read_table(store, result.speech, "utterances"))
    assert {row["speaker"] for row in rows if row["split"] == "heldout"} == {"bea"}
    assert {row["speaker"] for row in rows if row["split"] == "train"} == {"ann", "cem"}
    texts = [row["split"] for row in read_table(store, result.text, "documents")]
    assert 0 < texts.count("heldout") < texts.count("train")


def test_a_speaker_who_says_nothing_cannot_be_held_out(store: MemoryStore, tmp_path: Path) -> None:
    source = OWN.source.model_copy(update={"heldout_speakers": ("bea", "dan")})
    config = OWN.model_copy(update={"source": source})
    request = IngestRequest(config=config, speech=own_speech(store), text=own_text(store, tmp_path))

    with pytest.raises(
        DataError, match=r"heldout_speakers names dan, who say nothing.* ann, bea, c"
    ):
        run(request, store, tmp_path)


def test_a_row_keeps_its_split_when_others_come(store: MemoryStore, tmp_path: Path) -> None:
    text = own_text(store, tmp_path)
    few, many = (
        run(IngestRequest(config=OWN, speech=own_speech(store, n), text=text), store, tmp_path)
        for n in (40, 60)
    )

    split = {row["id"]: row["split"] for row in read_table(store, many.speech, "utterances")}
    assert all(
        split[row["id"]] == row["split"] for row in read_table(store, few.speech, "utterances")
    )


def test_own_dialogues_are_used_where_given(store: MemoryStore, tmp_path: Path) -> None:
    request = IngestRequest(
        config=OWN,
        speech=own_speech(store),
        text=own_text(store, tmp_path),
        dialogues=own_dialogues(store, tmp_path),
    )

    result = run(request, store, tmp_path)

    assert store.manifest(result.dialogues).parents == (request.dialogues,)
    asked = list(read_table(store, result.tasks, "questions"))
    assert asked
    assert all(row["answers"] == ["well."] for row in asked)


def test_a_catalog_source_needs_its_artifacts(store: MemoryStore, tmp_path: Path) -> None:
    speech = own_speech(store)
    with pytest.raises(ConfigError, match="needs the artifact of its speech corpus, got none"):
        run(IngestRequest(config=OWN), store, tmp_path)
    with pytest.raises(ConfigError, match="its text corpus, got none; next: interloom ingest text"):
        run(IngestRequest(config=OWN, speech=speech), store, tmp_path)
    named = IngestConfig(source=CatalogCorpora(speech="s", text="t", dialogues="d"))
    text = own_text(store, tmp_path)
    with pytest.raises(ConfigError, match="its dialogues corpus, got none"):
        run(IngestRequest(config=named, speech=speech, text=text), store, tmp_path)


def test_a_starter_source_takes_no_artifacts(store: MemoryStore, tmp_path: Path) -> None:
    request = IngestRequest(config=IngestConfig(source=SMALL), speech=own_speech(store))

    with pytest.raises(ConfigError, match=r"builds its corpora, but was given \['speech'\]"):
        run(request, store, tmp_path)


def test_a_corpus_that_is_too_small_to_split_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    request = IngestRequest(config=OWN, speech=own_speech(store, 1), text=own_text(store, tmp_path))

    with pytest.raises(DataError, match=r"speech corpus has no row in the split .* \(it has 1 in"):
        run(request, store, tmp_path)


def test_sentences_end_at_marks_and_lines() -> None:
    assert derive.sentences("One. Two? Three\nfour!  Five") == [
        "One.",
        "Two?",
        "Three",
        "four!",
        "Five",
    ]


def test_dialogues_from_documents_take_short_second_sentences() -> None:
    common = {"split": "train", "source": "s", "licence": "l"}
    rows = [
        {"id": "a", "text": "What is it? It is a cat. The end.", **common},
        {"id": "b", "text": "Only one sentence.", **common},
        {"id": "c", "text": "Why? " + "word " * 21 + ".", **common},
    ]

    (row,) = derive.dialogues_from_documents(rows, limit=10)

    assert row["id"] == "a"
    assert [turn["text"] for turn in row["turns"]] == ["What is it?", "It is a cat."]


def test_a_wrong_ending_is_a_sentence_of_another_document() -> None:
    documents = [
        {"id": f"d{index}", "text": f"one {index}. two {index}. three {index}."}
        for index in range(8)
    ]

    for row in derive.cloze(documents, seed=0, limit=8):
        assert row["wrong"].split()[1] != row["right"].split()[1]


def test_one_document_alone_gives_no_pair() -> None:
    assert list(derive.cloze([{"id": "a", "text": "one. two."}], seed=0, limit=5)) == []
