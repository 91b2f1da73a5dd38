"""Recordings without transcripts, labelled by a recogniser as they are taken in."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from interloom.audio.files import write_flac
from interloom.bootstrap import open_transcriber
from interloom.config.corpora import TakeIn
from interloom.core.errors import DataError
from interloom.corpora.ingest_speech import ingest_speech
from interloom.corpora.tables import read_table
from interloom.ports.progress import NoProgress
from interloom.testing.store import MemoryStore


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
