from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from interloom.config.interleaving import (
    TextThenSpeech,
)
from interloom.config.text_to_token import TextToTokenConfig
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError, MissingError
from interloom.corpora.interleaved import rebuild
from interloom.corpora.tables import (
    DOCUMENTS,
    SPEECH_TOKENS,
    read_table,
    write_table,
)
from interloom.interleaving.respeaking import find_span, respeak
from interloom.ports.workspace import Part, Workspace
from interloom.stages.interleave import InterleaveRequest, interleave, make_shards
from interloom.stages.train_text_to_token import TrainTextToTokenRequest, train_text_to_token
from interloom.testing import toy_speech
from interloom.testing.engine import PlainEngine
from interloom.testing.gate import PlainGate
from interloom.testing.store import MemoryStore, stand_in
from interloom.testing.toy_interleaving import (
    DOCUMENT_ROWS,
    LAYOUT,
    TOKENIZER,
    changed,
)
from interloom.text.bpe import load_text_tokenizer


@dataclass(frozen=True, slots=True)
class World:
    """Artifacts of the toy language."""

    store: MemoryStore
    text: ArtifactRef
    tokens: ArtifactRef
    tokenizer: ArtifactRef
    text_tokenizer: ArtifactRef


@cache
def world() -> World:
    store = MemoryStore()
    rows = [toy_speech.token_row(at, num_words=2 + at % 5) for at in range(120)]
    rows += [toy_speech.token_row(7000 + at, split="heldout") for at in range(5)]
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard("tokenizer.json") as shard:
            TOKENIZER.save(shard.path)
        text_tokenizer = draft.commit()
    with store.draft(ArtifactKind.TOKENIZER_MODEL) as draft:
        with draft.shard("config.json") as shard:
            shard.path.write_text("{}")
        tokenizer = draft.commit(facts={"codebook_size": 32, "samples_per_token": 1280})
    with store.draft(ArtifactKind.SPEECH_TOKENS) as draft:
        write_table(draft, "tokens", SPEECH_TOKENS, rows)
        facts = {"codebook_size": toy_speech.CODEBOOK_SIZE, "tokenizer": tokenizer.id}
        tokens = draft.commit(licences=["CC0-1.0"], facts=facts)
    with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        write_table(draft, "documents", DOCUMENTS, DOCUMENT_ROWS)
        text = draft.commit(licences=["CC0-1.0"])
    return World(store, text, tokens, tokenizer, text_tokenizer)


def train_request(num_steps: int, **changes: Any) -> TrainTextToTokenRequest:
    made = world()
    config = TextToTokenConfig(
        width=64,
        num_layers=2,
        num_heads=2,
        dropout=0.0,
        train=TrainConfig(num_steps=num_steps, learning_rate=5e-3, warmup_steps=10),
    )
    fields = {"tokens": made.tokens, "tokenizer": made.tokenizer} | changes
    return TrainTextToTokenRequest(text_tokenizer=made.text_tokenizer, config=config, **fields)


def workspace(folder: Path) -> Workspace:
    folder.mkdir(parents=True, exist_ok=True)
    return Workspace(folder)


@pytest.mark.slow
def test_training_and_interleaving_fit_together(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    made = world()

    trained = train_text_to_token(
        train_request(70), store=made.store, work=workspace(tmp_path / "a"), engine=PlainEngine
    )
    request = InterleaveRequest(
        text=made.text,
        text_to_token=trained.text_to_token,
        tokenizer=made.tokenizer,
        text_tokenizer=made.text_tokenizer,
        config=changed(max_documents=20),
    )
    once = interleave(request, store=made.store, work=workspace(tmp_path / "b"), gate=PlainGate())
    again = interleave(request, store=made.store, work=workspace(tmp_path / "c"), gate=PlainGate())

    assert trained.metric("text_to_token/heldout_nll") < 1
    assert once == again
    assert 0.2 < once.metric("interleave/word_ratio") < 0.4
    assert all(check.success for check in once.checks)
    rows = list(read_table(made.store, once.interleaved, "interleaved"))
    tokenizer = load_text_tokenizer(made.store, made.text_tokenizer)
    assert [rebuild(row, tokenizer) for row in rows] == [row["text"] for row in rows]
    assert_any_span_can_be_spoken_again_alone(rows, once.interleaved)


def assert_any_span_can_be_spoken_again_alone(rows: list[dict[str, Any]], ref: ArtifactRef) -> None:
    for row in rows[::5]:
        kept = find_span(world().store, ref, row["id"], None)
        assert respeak(world().store, kept).codes.tolist() == kept.codes.tolist() != []
    with pytest.raises(MissingError, match="spans, numbered from 0; got 99"):
        find_span(world().store, ref, rows[0]["id"], 99)


def recorded_request(**changes: Any) -> InterleaveRequest:
    """Spans cut out of the toy language's recordings."""
    made = world()
    config = changed(speech="recorded", policy=TextThenSpeech(min_text_words=2, max_text_words=6))
    fields = {"text_to_token": stand_in(made.store, ArtifactKind.TEXT_TO_TOKEN_MODEL)}
    fields |= {"text": made.text, "tokens": made.tokens, "tokenizer": made.tokenizer}
    fields |= {"text_tokenizer": made.text_tokenizer}
    return InterleaveRequest.model_validate(fields | {"config": config} | changes)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_recordings_are_interleaved_at_the_times_of_their_words(
    tmp_path: Path, num_workers: int
) -> None:
    store = world().store
    work = Workspace(tmp_path, num_workers=num_workers)

    result = interleave(recorded_request(), store=store, work=work, gate=PlainGate())

    rows = list(read_table(store, result.interleaved, "interleaved"))
    tokenizer = load_text_tokenizer(store, world().text_tokenizer)
    assert all(check.success for check in result.checks)
    assert rows
    assert result.metric("interleave/left_out/too_short") + len(rows) == 120
    for row in rows:
        assert rebuild(row, tokenizer) == row["text"]
        assert row["made_by"] == f"speech_tokens:{world().tokens.id}"
        for span in row["spans"]:
            said = row["text"].split()[span["word_start"] : span["word_stop"]]
            ids = row["ids"][span["id_start"] + 1 : span["id_stop"] - 1]
            assert [one - LAYOUT.speech_offset for one in ids] == toy_speech.speak(" ".join(said))


def test_shards_that_were_made_in_parts_give_the_same_rows(tmp_path: Path) -> None:
    made = world()
    config = recorded_request().config.model_copy(update={"documents_per_shard": 20})
    request = recorded_request(config=config, text_to_token=made.text)
    work, parts = Workspace(tmp_path / "parts"), [Part(index, 3) for index in (2, 0, 1)]
    (tmp_path / "whole").mkdir()
    work.folder.mkdir()
    whole = interleave(
        request, store=made.store, work=Workspace(tmp_path / "whole"), gate=PlainGate()
    )

    for part in parts:
        make_shards(request, store=made.store, work=work, gate=PlainGate(), part=part)
    shards = {path: path.stat().st_mtime_ns for path in (work.folder / "shards").glob("*.json")}
    result = interleave(request, store=made.store, work=work, gate=PlainGate())

    assert result == whole
    assert len(shards) >= 4
    assert shards == {path: path.stat().st_mtime_ns for path in shards}


def test_recorded_speech_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'recorded', but the request names no speech tokens"):
        interleave(
            recorded_request(tokens=None),
            store=world().store,
            work=workspace(tmp_path),
            gate=PlainGate(),
        )


def test_recordings_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    other = ArtifactRef(ArtifactKind.TOKENIZER_MODEL, "c" * 64)

    with pytest.raises(DataError, match="holds codes of speech tokenizer"):
        interleave(
            recorded_request(tokenizer=other),
            store=world().store,
            work=workspace(tmp_path),
            gate=PlainGate(),
        )


def test_a_model_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    made = world()
    trained = train_text_to_token(
        train_request(11), store=made.store, work=workspace(tmp_path / "a"), engine=PlainEngine
    )
    other = ArtifactRef(ArtifactKind.TOKENIZER_MODEL, "c" * 64)
    request = InterleaveRequest(
        text=made.text,
        text_to_token=trained.text_to_token,
        tokenizer=other,
        text_tokenizer=made.text_tokenizer,
    )

    with pytest.raises(DataError, match="was trained with speech tokenizer"):
        interleave(request, store=made.store, work=workspace(tmp_path / "b"), gate=PlainGate())
    with pytest.raises(DataError, match="was made with speech tokenizer"):
        train_text_to_token(
            train_request(11, tokenizer=other),
            store=made.store,
            work=workspace(tmp_path / "c"),
            engine=PlainEngine,
        )


def test_training_without_transcripts_is_refused(tmp_path: Path) -> None:
    made = world()
    silent = toy_speech.token_row(0) | {"text": " "}
    with made.store.draft(ArtifactKind.SPEECH_TOKENS) as draft:
        write_table(draft, "tokens", SPEECH_TOKENS, [silent])
        facts = {"codebook_size": 32, "tokenizer": made.tokenizer.id}
        tokens = draft.commit(facts=facts)

    with pytest.raises(DataError, match="has both text and codes"):
        train_text_to_token(
            train_request(11, tokens=tokens),
            store=made.store,
            work=workspace(tmp_path),
            engine=PlainEngine,
        )
