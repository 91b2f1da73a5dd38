"""The tokenizer's stages on a toy language: each word is a chord of two tones."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interloom.audio.files import encode_flac
from interloom.config.speech_tokenizer import (
    AugmentConfig,
    EncoderConfig,
    QuantizerConfig,
    TokenizerConfig,
)
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.tables import UTTERANCES, read_table, write_table
from interloom.ports.progress import NoProgress
from interloom.ports.workspace import Part, Workspace
from interloom.speech_tokenizer import alignment, corpus
from interloom.speech_tokenizer.features import Corpus, read_features
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.speech_tokenizer.runtime import SpeechTokenizer, load_speech_tokenizer
from interloom.stages.tokenize_speech import (
    TokenizeSpeechRequest,
    TokenizeSpeechResult,
    make_shards,
    tokenize_speech,
)
from interloom.stages.train_tokenizer import (
    TrainTokenizerRequest,
    TrainTokenizerResult,
    train_tokenizer,
)
from interloom.testing.engine import PlainEngine
from interloom.testing.store import MemoryStore
from interloom.text.bpe import TextTokenizer, load_text_tokenizer

TONES_HZ = {"ga": (300, 2000), "bo": (500, 1200), "mi": (800, 3000), "tu": (400, 700)}
WORD_SAMPLES, REST_SAMPLES = 4800, 1600


def _config(**training: Any) -> TokenizerConfig:
    return TokenizerConfig(
        encoder=EncoderConfig(
            d_model=32,
            num_heads=4,
            ffn_dim=64,
            num_layers=3,
            pool_after_layer=0,
            quantize_after_layer=1,
            max_frames=120,
            bucket_tokens=8,
        ),
        quantizer=QuantizerConfig(codebook_size=24, start_step=training.pop("start_step", 3)),
        augment=AugmentConfig(bin_mask_bins=2),
        decoder_layers=1,
        batch_frames=1600,
        training=TrainConfig(
            **{
                "num_steps": 8,
                "learning_rate": 3e-3,
                "checkpoint_every_steps": 4,
                "log_every_steps": 4,
                **training,
            }
        ),
    )


def _say(words: list[str], gain: float) -> np.ndarray:
    time = np.arange(WORD_SAMPLES) / 16_000
    rest = np.zeros(REST_SAMPLES)
    parts = [rest]
    for word in words:
        tone = sum(np.sin(2 * np.pi * hz * time) for hz in TONES_HZ[word])
        parts += [gain * tone * np.hanning(WORD_SAMPLES), rest]
    return np.concatenate(parts).astype(np.float32)


def _row(index: int) -> dict[str, Any]:
    rng = np.random.Generator(np.random.Philox(index))
    words = [str(word) for word in rng.choice(sorted(TONES_HZ), size=int(rng.integers(1, 5)))]
    waveform = _say(words, 0.1 + 0.2 * float(rng.random()))
    step = WORD_SAMPLES + REST_SAMPLES
    starts = [REST_SAMPLES + step * place for place in range(len(words))]
    return {
        "id": f"u{index:03d}",
        "split": "heldout" if index % 8 == 0 else "train",
        "speaker": "tone",
        "text": " ".join(words),
        "audio": encode_flac(waveform),
        "num_samples": len(waveform),
        "words": [
            {"word": word, "start": start, "stop": start + WORD_SAMPLES}
            for word, start in zip(words, starts, strict=True)
        ],
        "source": "toy",
        "licence": "CC0-1.0",
        "facts": [],
    }


def _speech(store: MemoryStore, rows: Iterator[dict[str, Any]]) -> ArtifactRef:
    with store.draft(ArtifactKind.SPEECH_CORPUS) as draft:
        write_table(draft, "utterances", UTTERANCES, rows)
        return draft.commit(licences=("CC0-1.0",))


def _text_tokenizer(store: MemoryStore) -> ArtifactRef:
    tokenizer = TextTokenizer.train([" ga bo mi tu ga bo mi tu"] * 9, vocab_size=264)
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard("tokenizer.json") as shard:
            tokenizer.save(shard.path)
        return draft.commit()


class _Toy:
    """A store with the toy speech and a text tokenizer."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.speech = _speech(self.store, (_row(index) for index in range(64)))
        self.text_tokenizer = _text_tokenizer(self.store)

    def request(self, config: TokenizerConfig) -> TrainTokenizerRequest:
        return TrainTokenizerRequest(
            speech=self.speech, text_tokenizer=self.text_tokenizer, config=config
        )


@cache
def _toy() -> _Toy:
    return _Toy()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainTokenizerResult:
    work = Workspace(tmp_path_factory.mktemp("train"))
    return train_tokenizer(
        _toy().request(_config()), store=_toy().store, work=work, engine=PlainEngine
    )


@pytest.fixture(scope="module")
def tokenizer(trained: TrainTokenizerResult) -> SpeechTokenizer:
    return load_speech_tokenizer(_toy().store, trained.tokenizer)


def _waveforms(count: int) -> list[np.ndarray]:
    return [_say(["ga", "mi", "tu", "bo"][: 1 + index % 4], 0.2) for index in range(count)]


def test_training_gives_a_tokenizer_with_its_measures(trained: TrainTokenizerResult) -> None:
    manifest = _toy().store.manifest(trained.tokenizer)

    assert trained.metric("tokenizer/wer") >= 0
    assert 0 < trained.metric("tokenizer/codes_used") <= 1
    assert 1 <= trained.metric("tokenizer/perplexity") <= 24
    assert 0 <= trained.metric("tokenizer/codes_dead") <= 1
    assert {check.suite for check in trained.checks} == {"codebook"}
    assert len(trained.checks) == 3
    assert [shard.path for shard in manifest.shards] == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert manifest.facts["codebook_size"] == 24
    assert set(manifest.parents) == {_toy().speech, _toy().text_tokenizer}
    assert {metric.name for metric in trained.metrics if metric.step == 8} >= {
        "train/ctc_loss",
        "train/decoder_loss",
        "train/commitment",
        "train/codebook_perplexity",
        "train/codebook_dead",
        "train/codebook_restarts",
    }


def test_training_begins_with_the_weights_of_another_tokenizer(
    trained: TrainTokenizerResult, tmp_path: Path
) -> None:
    store = _toy().store
    start = f"tokenizer_model:{trained.tokenizer.id}"
    config = _config(num_steps=1, learning_rate=1e-9).model_copy(update={"start_from": start})

    result = train_tokenizer(
        _toy().request(config), store=store, work=Workspace(tmp_path), engine=PlainEngine
    )

    before = load_speech_tokenizer(store, trained.tokenizer).model.encoder
    after = load_speech_tokenizer(store, result.tokenizer).model.encoder
    torch.testing.assert_close(after.conv2.weight, before.conv2.weight)
    assert int(after.codebook.num_updates) == int(before.codebook.num_updates) + 1
    assert trained.tokenizer in store.manifest(result.tokenizer).parents


def test_weights_of_another_shape_are_no_start(
    trained: TrainTokenizerResult, tmp_path: Path
) -> None:
    start = f"tokenizer_model:{trained.tokenizer.id}"
    config = _config().model_copy(
        update={"start_from": start, "quantizer": QuantizerConfig(codebook_size=30)}
    )

    with pytest.raises(DataError, match=r"codebook\.\w+ is \(24,"):
        train_tokenizer(
            _toy().request(config),
            store=_toy().store,
            work=Workspace(tmp_path),
            engine=PlainEngine,
        )


class _Killed(Exception):  # noqa: N818 - no error
    pass


class _KillAt:
    """Progress that kills training once."""

    def __init__(self, step: int) -> None:
        self._step = step

    def update(self, done: int, total: int | None, note: str = "") -> None:
        if total is not None and done >= self._step and note.startswith("loss"):
            raise _Killed


@pytest.mark.parametrize("start_step", [3, 6])
def test_a_killed_training_gives_the_same_tokenizer(tmp_path: Path, start_step: int) -> None:
    store = _toy().store
    config = _config(start_step=start_step, log_every_steps=1)
    if start_step == 6:
        sped = config.augment.model_copy(update={"sped": 0.5})
        config = config.model_copy(update={"augment": sped, "ctc_rate": "frames"})
    request = _toy().request(config)
    whole = train_tokenizer(
        request, store=store, work=Workspace(_folder(tmp_path, "whole")), engine=PlainEngine
    )
    folder = _folder(tmp_path, "killed")

    with pytest.raises(_Killed):
        train_tokenizer(
            request, store=store, work=Workspace(folder, _KillAt(6)), engine=PlainEngine
        )
    resumed = train_tokenizer(request, store=store, work=Workspace(folder), engine=PlainEngine)

    assert resumed == whole


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_codes_of_an_utterance_do_not_depend_on_its_batch(tokenizer: SpeechTokenizer) -> None:
    waveforms = _waveforms(9)

    together = tokenizer.encode(waveforms)
    alone = [tokenizer.encode([waveform])[0] for waveform in waveforms]

    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_codes_do_not_depend_on_the_number_of_threads(tokenizer: SpeechTokenizer) -> None:
    waveforms = _waveforms(4)
    threads = torch.get_num_threads()

    one = tokenizer.encode(waveforms)
    torch.set_num_threads(2)
    two = tokenizer.encode(waveforms)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)

    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(two))


@pytest.mark.parametrize("num_samples", [1, 1279, 1280, 1281, 50_000])
def test_there_are_as_many_codes_as_cover_the_samples(
    tokenizer: SpeechTokenizer, num_samples: int
) -> None:
    codes = tokenizer.encode([np.full(num_samples, 0.1, np.float32)])[0]

    assert len(codes) == -(-num_samples // tokenizer.samples_per_token)
    assert codes.dtype == np.int32
    assert codes.max() < tokenizer.codebook_size


def test_no_samples_and_no_codes_give_nothing(tokenizer: SpeechTokenizer) -> None:
    assert tokenizer.encode([np.zeros(0, np.float32)])[0].tolist() == []
    assert tokenizer.read([np.zeros(0, np.int32)]) == [""]


def test_codes_of_another_codebook_are_refused(tokenizer: SpeechTokenizer) -> None:
    with pytest.raises(DataError, match=r"codes must lie in \[0, 24\), got \[0, 24\]"):
        tokenizer.read([np.array([0, 24])])


def test_words_are_aligned_in_order(tokenizer: SpeechTokenizer) -> None:
    codes = tokenizer.encode([_say(["ga", "bo", "mi"], 0.2)])[0]

    words = tokenizer.align(codes, ["ga", "bo", "mi"])

    assert [one.word for one in words] == ["ga", "bo", "mi"]
    assert all(one.span.stop <= other.span.start for one, other in pairwise(words))
    assert words[-1].span.stop <= len(codes) * tokenizer.samples_per_token
    assert tokenizer.align(codes, []) == []


def test_a_head_before_the_pool_begins_as_one_of_codes_and_tells_places_within_them() -> None:
    config = _config()
    coarse, fine = (
        SpeechTokenizer(one, text, _untrained(one, text.vocab_size))
        for text in [TextTokenizer.train([" ga bo"], vocab_size=259)]
        for one in (config, config.model_copy(update={"ctc_rate": "frames"}))
    )
    states = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))

    codes, frames = coarse.model.ctc_head(states), fine.model.ctc_head(states)

    torch.testing.assert_close(frames, codes.repeat_interleave(4, dim=1))
    words = fine.align(np.arange(20) % 24, ["ga", "bo"])
    assert [one.word for one in words] == ["ga", "bo"]
    assert all(edge % 320 == 0 for one in words for edge in (one.span.start, one.span.stop))
    assert words[-1].span.stop <= 20 * 1280
    # Four codes have sixteen places, which is room for eight bytes and their blanks.
    assert len(fine.align(np.zeros(4, np.int32), ["gagagaga"])) == 1
    with pytest.raises(DataError, match=r"labels need at least \d+ places, got 4"):
        coarse.align(np.zeros(4, np.int32), ["gagagaga"])


def _untrained(config: TokenizerConfig, vocab_size: int) -> TokenizerModel:
    torch.manual_seed(0)
    model = TokenizerModel(config, vocab_size).eval().requires_grad_(requires_grad=False)
    model.encoder.codebook.is_ready.fill_(value=True)
    return model


def test_an_artifact_of_another_kind_is_refused() -> None:
    with pytest.raises(DataError, match="is not a tokenizer_model"):
        load_speech_tokenizer(_toy().store, _toy().speech)


def test_a_corpus_becomes_codes_with_words_in_codes(
    trained: TrainTokenizerResult, tokenizer: SpeechTokenizer, tmp_path: Path
) -> None:
    store = _toy().store
    request = TokenizeSpeechRequest(speech=_toy().speech, tokenizer=trained.tokenizer)

    result = tokenize_speech(request, store=store, work=Workspace(tmp_path))

    rows = {row["id"]: row for row in read_table(store, result.tokens, "tokens")}
    assert len(rows) == 64
    for said in read_table(store, _toy().speech, "utterances", split="heldout"):
        row = rows[said["id"]]
        assert len(row["codes"]) == -(-said["num_samples"] // 1280)
        assert [word["word"] for word in row["words"]] == said["text"].split()
        assert row["words"][0]["start"] == REST_SAMPLES // 1280
    facts = store.manifest(result.tokens).facts
    assert facts["tokenizer"] == trained.tokenizer.id
    assert facts["frame_rate_hz"] == "25/2"
    again = tokenize_speech(request, store=store, work=Workspace(tmp_path))
    assert again == result


def test_codes_that_were_made_in_parts_are_the_same(
    trained: TrainTokenizerResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_ROWS", 4)
    monkeypatch.setattr(corpus, "_UNIT_ROWS", 12)
    store = _toy().store
    request = TokenizeSpeechRequest(speech=_toy().speech, tokenizer=trained.tokenizer)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = tokenize_speech(request, store=store, work=Workspace(tmp_path / "whole"))

    for index in (1, 0):
        work = Workspace(tmp_path / "parts")
        make_shards(request, store=store, work=work, part=Part(index, 2))
    units = sorted((tmp_path / "parts/shards").iterdir())
    parts = tokenize_speech(request, store=store, work=Workspace(tmp_path / "parts"))

    assert [path.name for path in units] == [f"{number:05d}.parquet" for number in range(6)]
    assert parts == whole


def _tokenized(
    rows: list[dict[str, Any]], trained: TrainTokenizerResult, folder: Path
) -> tuple[TokenizeSpeechResult, dict[str, dict[str, Any]]]:
    store = _toy().store
    request = TokenizeSpeechRequest(speech=_speech(store, iter(rows)), tokenizer=trained.tokenizer)
    result = tokenize_speech(request, store=store, work=Workspace(folder))
    return result, {row["id"]: row for row in read_table(store, result.tokens, "tokens")}


def test_words_without_places_are_aligned_or_counted_as_not(
    trained: TrainTokenizerResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "MIN_CONFIDENCE", 0.0)  # the head has hardly learnt
    known = {**_row(1), "text": "ga bo", "words": []}
    wrong = {**_row(2), "text": "ga " * 300, "words": []}
    silent = {**_row(3), "text": "", "words": []}

    result, rows = _tokenized([known, wrong, silent], trained, tmp_path)

    assert [word["word"] for word in rows["u001"]["words"]] == ["ga", "bo"]
    assert rows["u002"]["words"] == rows["u003"]["words"] == []
    assert result.metric("tokens/aligned_utterances") == 1
    assert result.metric("tokens/unaligned_utterances") == 1


def test_a_transcript_in_another_script_is_counted_as_not_aligned(
    trained: TrainTokenizerResult, tmp_path: Path
) -> None:
    result, rows = _tokenized(
        [{**_row(1), "text": "вчера шёл дождь", "words": []}], trained, tmp_path
    )

    assert rows["u001"]["words"] == []
    assert result.metric("tokens/unaligned_utterances") == 1


def test_long_rows_are_encoded_as_they_are_read(
    trained: TrainTokenizerResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = _row(3)
    _, whole = _tokenized([long], trained, _folder(tmp_path, "whole"))

    monkeypatch.setattr(corpus, "_LONG_SAMPLES", 10)
    _, streamed = _tokenized([long], trained, _folder(tmp_path, "streamed"))

    assert streamed["u003"]["codes"] == whole["u003"]["codes"]


def test_a_row_whose_audio_cannot_be_read_is_named(
    trained: TrainTokenizerResult, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"utterance 'u001': cannot read 9 bytes as audio"):
        _tokenized([{**_row(1), "audio": b"not audio"}], trained, tmp_path)


def test_a_word_after_the_end_of_its_audio_is_refused(
    trained: TrainTokenizerResult, tmp_path: Path
) -> None:
    row = _row(1)
    row["words"][-1]["stop"] += 100_000
    speech = _speech(_toy().store, iter([row]))
    request = TokenizeSpeechRequest(speech=speech, tokenizer=trained.tokenizer)

    with pytest.raises(DataError, match=r"'u001': the words end at code \d+, but its audio"):
        tokenize_speech(request, store=_toy().store, work=Workspace(tmp_path))


def test_a_single_word_is_said_where_its_recording_is_loud(tmp_path: Path) -> None:
    store = _toy().store
    one = {**_row(1), "text": "ga", "words": [], "audio": encode_flac(_say(["ga"], 0.2))}
    two = {**_row(2), "text": "ga bo", "words": [], "audio": encode_flac(_say(["ga", "bo"], 0.2))}
    text = load_text_tokenizer(store, _toy().text_tokenizer)
    corpus = Corpus(_speech(store, iter([one, two])), "train", _config().encoder, text)

    features = read_features(corpus, tmp_path, store=store, progress=NoProgress())

    places = features.whole(0).frames_L2
    assert places[0, 0] == pytest.approx(REST_SAMPLES / 160, abs=6)
    assert places[-1, 1] == pytest.approx((REST_SAMPLES + WORD_SAMPLES) / 160, abs=6)
    assert (features.whole(1).frames_L2 == -1).all()


def test_speech_without_transcripts_is_refused(tmp_path: Path) -> None:
    speech = _speech(_toy().store, iter([{**_row(1), "text": ""}]))
    request = TrainTokenizerRequest(
        speech=speech, text_tokenizer=_toy().text_tokenizer, config=_config()
    )

    with pytest.raises(DataError, match="has no transcribed train utterance"):
        train_tokenizer(request, store=_toy().store, work=Workspace(tmp_path), engine=PlainEngine)


@pytest.mark.slow
@pytest.mark.parametrize(("ctc_rate", "ctc_weight"), [("codes", 1.0), ("frames", 0.1)])
def test_the_toy_language_is_learnt_through_the_quantiser(
    tmp_path: Path, ctc_rate: str, ctc_weight: float
) -> None:
    config = _config(num_steps=200, start_step=60, checkpoint_every_steps=400).model_copy(
        update={"ctc_rate": ctc_rate, "ctc_weight": ctc_weight}
    )

    result = train_tokenizer(
        _toy().request(config), store=_toy().store, work=Workspace(tmp_path), engine=PlainEngine
    )

    assert result.metric("tokenizer/wer") < 0.1
    assert result.metric("tokenizer/codes_used") > 0.5
