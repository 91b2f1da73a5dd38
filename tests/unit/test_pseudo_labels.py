"""Recordings without transcripts, labelled by a recogniser as they are taken in."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from interloom.audio.files import write_flac
from interloom.bootstrap import open_transcriber
from interloom.config.corpora import TakeIn
from interloom.config.speech_tokenizer import EncoderConfig
from interloom.core.errors import ConfigError, DataError, MissingError
from interloom.corpora.assemble import write_speech
from interloom.corpora.ingest_speech import ingest_speech
from interloom.corpora.tables import read_table
from interloom.ports.progress import NoProgress
from interloom.speech_tokenizer.features import Corpus, read_features
from interloom.testing.store import MemoryStore
from interloom.text.bpe import TextTokenizer


class _Parrot:
    """A recogniser that hears one thing in everything."""

    def __init__(self, says: str) -> None:
        self._says = says

    @property
    def name(self) -> str:
        return "parrot-1"

    def transcribe(self, samples_S: NDArray[np.float32]) -> str:
        assert samples_S.dtype == np.float32
        return self._says


def _manifest(folder: Path, rows: dict[str, str]) -> Path:
    tone = (0.3 * np.sin(np.arange(32_000) / 9)).astype(np.float32)
    for place, name in enumerate(rows):
        write_flac(folder / name, tone * (1 - place / 10))
    lines = ["path\ttext", *(f"{name}\t{text}" for name, text in rows.items())]
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_what_has_no_transcript_gets_one_and_the_artifact_says_whose(tmp_path: Path) -> None:
    store = MemoryStore()
    path = _manifest(tmp_path, {"a.flac": "said by hand", "b.flac": ""})

    outcome = ingest_speech(
        path, TakeIn(name="x"), store=store, progress=NoProgress(), transcriber=_Parrot("pretty")
    )

    texts = [row["text"] for row in read_table(store, outcome.corpus, "utterances")]
    assert texts == ["said by hand", "pretty"]
    assert store.manifest(outcome.corpus).facts["labelled_by"] == "parrot-1"


@pytest.mark.parametrize(
    ("says", "reason"), [("", "no transcript"), ("la " * 90, "nobody says 45 words a second")]
)
def test_labels_that_cannot_be_right_are_refused(tmp_path: Path, says: str, reason: str) -> None:
    path = _manifest(tmp_path, {"a.flac": "said by hand", "b.flac": ""})

    outcome = ingest_speech(
        path,
        TakeIn(name="x"),
        store=MemoryStore(),
        progress=NoProgress(),
        transcriber=_Parrot(says),
    )

    assert (outcome.accepted, outcome.refused) == (1, 1)
    assert reason in outcome.refusals[0].reason


def test_without_a_recogniser_they_are_refused(tmp_path: Path) -> None:
    path = _manifest(tmp_path, {"b.flac": ""})

    with pytest.raises(DataError, match="it has no transcript"):
        ingest_speech(path, TakeIn(name="x"), store=MemoryStore(), progress=NoProgress())


def test_the_rows_that_were_labelled_are_known_in_a_run_and_in_training(tmp_path: Path) -> None:
    store = MemoryStore()
    path = _manifest(tmp_path, {f"{n}.flac": "said by hand" * (n % 3 > 0) for n in range(9)})
    speech = ingest_speech(
        path, TakeIn(name="x"), store=store, progress=NoProgress(), transcriber=_Parrot("pretty")
    ).corpus
    rows = read_table(store, speech, "utterances")

    split = write_speech(store, rows, parents=(speech,), labelled_by="parrot-1")

    text = TextTokenizer.train([" a"], vocab_size=257)
    corpus = Corpus(split, "train", EncoderConfig(), text)
    features = read_features(corpus, tmp_path / "mels", store=store, progress=NoProgress())
    assert features.is_pseudo_N.tolist() == [n % 3 == 0 for n in range(9)]
    assert store.manifest(split).facts["labelled_by"] == "parrot-1"


def _whisper(folder: Path) -> WhisperForConditionalGeneration:
    """A very small Whisper of random numbers, with bytes for its text, in a folder."""
    ids = TextTokenizer.train([" a"], vocab_size=257)
    ids.save(folder / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    torch.manual_seed(3)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=260,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            decoder_start_token_id=257,
            bos_token_id=257,
            eos_token_id=258,
            pad_token_id=258,
            init_std=0.5,
        )
    ).eval()
    model.generation_config.max_length = 12
    model.save_pretrained(folder)
    return model


def test_a_whisper_from_a_folder_writes_what_transformers_writes(tmp_path: Path) -> None:
    model = _whisper(tmp_path)
    rng = np.random.Generator(np.random.Philox(1))
    samples = (0.2 * rng.standard_normal(40_000)).astype(np.float32)
    features = WhisperFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="pt")
    ids = model.generate(features["input_features"])[0]

    recogniser = open_transcriber(str(tmp_path))

    assert recogniser is not None
    expected = TextTokenizer.load(tmp_path / "tokenizer.json").decode(
        [one for one in ids.tolist() if one < 257]
    )
    assert recogniser.transcribe(samples) == expected.strip() != ""
    assert re.fullmatch("whisper-[0-9a-f]{12}", recogniser.name)
    with pytest.raises(DataError, match=r"it lasts 31\.0 s, and Whisper hears at most 30 s"):
        recogniser.transcribe(np.zeros(31 * 16_000, np.float32))


def test_what_is_no_recogniser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'moonshine' or the folder of a Whisper .*, got 'siri'"):
        open_transcriber("siri")
    with pytest.raises(MissingError, match=r"holds no config\.json with"):
        open_transcriber(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match="cannot be read as a Whisper"):
        open_transcriber(str(tmp_path))


@pytest.mark.slow
def test_moonshine_reads_real_sentences(tmp_path: Path) -> None:
    pytest.importorskip("moonshine_voice", reason="needs the asr extra")
    speech = os.environ.get("INTERLOOM_TEST_SPEECH")
    if speech is None:
        pytest.skip("INTERLOOM_TEST_SPEECH names no folder of recordings")
    import soundfile

    from interloom.evaluation.error_rate import word_errors

    rows = [
        line.split("\t")
        for line in (Path(speech) / "manifest.tsv").read_text().splitlines()[1:]
        if line.startswith("sentences")
    ][:5]
    recogniser = open_transcriber("moonshine")
    assert recogniser is not None

    edits = words = 0
    for row in rows:
        samples, _ = soundfile.read(Path(speech) / row[0], dtype="float32")
        errors = word_errors(row[3], recogniser.transcribe(samples))
        edits, words = edits + errors.num_edits, words + errors.num_words

    assert recogniser.name == "moonshine-tiny-0.0.73"
    assert edits / words < 0.15
