import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from interloom.config.interleaving import InterleavingConfig
from interloom.config.text_to_token import SynthesisConfig, TextToTokenConfig
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.interleaved import rebuild
from interloom.corpora.tables import DOCUMENTS, SPEECH_TOKENS, read_table, write_table
from interloom.interleaving.sampling import SpanRule
from interloom.interleaving.weaving import Weaver
from interloom.interleaving.writing import Interleaver
from interloom.ports.workspace import Workspace
from interloom.quality.interleaved import AlignmentCheck
from interloom.stages.interleave import InterleaveRequest, interleave
from interloom.stages.train_text_to_token import TrainTextToTokenRequest, train_text_to_token
from interloom.testing import toy_speech
from interloom.testing.engine import PlainEngine
from interloom.testing.gate import PlainGate
from interloom.testing.store import MemoryStore
from interloom.text.bpe import TextTokenizer, load_text_tokenizer
from interloom.text_to_token.runtime import load_text_to_token
from interloom.text_to_token.spans import SpanRequest
from interloom.vocabulary.layout import VocabularyLayout

SYNTHESIS = SynthesisConfig(num_slots=8, max_tokens_per_word=16)
CONFIG = InterleavingConfig(documents_per_shard=16, mean_span_words=4, synthesis=SYNTHESIS)
DOCUMENT_ROWS = [
    toy_speech.document_row(at, num_words=2 + at % 30, may_interleave=at % 5 > 0)
    for at in range(60)
]
TOKENIZER = TextTokenizer.train([row["text"] for row in DOCUMENT_ROWS], vocab_size=280)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, toy_speech.CODEBOOK_SIZE, "a" * 64, "b" * 64)


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


def interleaver(speaker: toy_speech.ToySpeaker, config: InterleavingConfig) -> Interleaver:
    return Interleaver(
        config,
        speaker,
        Weaver(TOKENIZER, LAYOUT),
        AlignmentCheck(TOKENIZER, LAYOUT, config.synthesis),
        gate=PlainGate(),
        seed=0,
    )


def run(
    speaker: toy_speech.ToySpeaker,
    folder: Path,
    config: InterleavingConfig = CONFIG,
    documents: Sequence[dict[str, Any]] = DOCUMENT_ROWS,
) -> tuple[list[dict[str, Any]], Interleaver]:
    made = interleaver(speaker, config)
    rule = SpanRule(config.speech_ratio, config.mean_span_words, 20)
    return list(made.rows(documents, rule, workspace(folder))), made


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
        config=CONFIG.model_copy(update={"max_documents": 20, "ratio_tolerance": 0.2}),
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
    assert_any_span_can_be_spoken_again_alone(rows, trained.text_to_token)


def assert_any_span_can_be_spoken_again_alone(
    rows: list[dict[str, Any]], model: ArtifactRef
) -> None:
    speaker = load_text_to_token(world().store, model, config=SYNTHESIS)
    offset = speaker.prompter.layout.speech_offset
    for row in rows[::5]:
        span = row["spans"][0]
        text = row["text"].encode()[span["byte_start"] : span["byte_stop"]].decode().strip()
        [result] = speaker.synthesise([SpanRequest(span["span_id"], text)])
        ids = row["ids"][span["id_start"] + 1 : max(0, span["id_stop"] - 1)]
        assert result.codes.tolist() == [one - offset for one in ids]


def test_only_documents_that_may_be_spoken_and_are_long_enough_are_woven(tmp_path: Path) -> None:
    rows, made = run(toy_speech.ToySpeaker(), tmp_path)

    expected = [
        row["id"]
        for row in DOCUMENT_ROWS
        if row["may_interleave"] and len(row["text"].split()) >= 4
    ]
    assert [row["id"] for row in rows] == expected
    assert made.tally.licences == {"CC0-1.0"}


def test_a_killed_run_goes_on_after_its_last_whole_shard(tmp_path: Path) -> None:
    uninterrupted, _ = run(toy_speech.ToySpeaker(), tmp_path / "a")
    first = toy_speech.ToySpeaker()
    killed = interleaver(first, CONFIG).rows(
        DOCUMENT_ROWS, SpanRule(0.3, 4, 20), workspace(tmp_path / "b")
    )
    next(killed)
    del killed

    second = toy_speech.ToySpeaker()
    resumed, _ = run(second, tmp_path / "b")

    assert resumed == uninterrupted
    assert first.asked
    assert not set(first.asked) & set(second.asked)


def test_the_shards_do_not_change_the_rows(tmp_path: Path) -> None:
    few, _ = run(toy_speech.ToySpeaker(), tmp_path / "a")
    config = CONFIG.model_copy(update={"documents_per_shard": 3, "ratio_tolerance": 0.3})

    many, _ = run(toy_speech.ToySpeaker(), tmp_path / "b", config)

    assert few == many


def test_spans_that_cannot_be_spoken_stay_text_and_are_counted(tmp_path: Path) -> None:
    rows, made = run(toy_speech.ToySpeaker(unspeakable="decade"), tmp_path)

    refused = [span for row in rows for span in row["spans"] if span["outcome"] == "no end"]
    assert refused
    assert made.tally.outcomes["no end"] >= len(refused)
    assert all(rebuild(row, TOKENIZER) == row["text"] for row in rows)


def test_nothing_that_can_be_spoken_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no document could be interleaved"):
        run(toy_speech.ToySpeaker(), tmp_path, documents=DOCUMENT_ROWS[::5])


def damage(folder: Path, shard: int, count: int) -> None:
    """Change the text of some rows in a finished shard, as a bug in weaving would."""
    path = folder / "shards" / f"{shard:05d}.json"
    rows = json.loads(path.read_bytes())
    for row in rows[:count]:
        row["text"] = row["text"] + " bad"
    path.write_text(json.dumps(rows))


def test_a_broken_row_is_left_out_and_named(tmp_path: Path) -> None:
    whole, _ = run(toy_speech.ToySpeaker(), tmp_path)
    damage(tmp_path, shard=1, count=1)

    kept, made = run(
        toy_speech.ToySpeaker(), tmp_path, CONFIG.model_copy(update={"max_quarantined": 0.1})
    )

    [(name, broken)] = made.tally.quarantined.items()
    assert broken == ["the text is rebuilt byte for byte"]
    assert [row["id"] for row in kept] == [row["id"] for row in whole if row["id"] != name]
    assert all(verdict.success for verdict in made.verdicts())


def test_too_many_broken_rows_fail_the_stage_by_name(tmp_path: Path) -> None:
    run(toy_speech.ToySpeaker(), tmp_path)
    damage(tmp_path, shard=0, count=3)

    with pytest.raises(
        DataError, match=r"3 of \d+ interleaved rows broke a check.*document-\d+: the text"
    ):
        run(toy_speech.ToySpeaker(), tmp_path)


def test_a_share_of_the_documents_is_taken_by_their_ids(tmp_path: Path) -> None:
    whole, _ = run(toy_speech.ToySpeaker(), tmp_path / "a")
    config = CONFIG.model_copy(update={"document_share": 0.5})

    half, _ = run(toy_speech.ToySpeaker(), tmp_path / "b", config)

    assert 10 < len(half) < 35
    assert [row for row in whole if row["id"] in {one["id"] for one in half}] == half


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
