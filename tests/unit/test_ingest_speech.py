"""Recordings of one's own: every form is read, every bad row is refused by name and reason."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from interloom.audio.files import read_audio
from interloom.config.corpora import Script, SpeechLimits, TakeIn
from interloom.core.errors import DataError, MissingError
from interloom.corpora.ingest_speech import ingest_speech
from interloom.corpora.intake import REFUSED, REPORT, IngestOutcome
from interloom.corpora.recording_checks import tidy_transcript
from interloom.corpora.tables import read_table
from interloom.ports.progress import NoProgress
from interloom.testing.store import MemoryStore

OPTIONS = TakeIn(name="mine", licence="CC0-1.0")
REAL_SPEECH = os.environ.get("INTERLOOM_TEST_SPEECH")

Rows = list[dict[str, object]]


def tone(seconds: float = 1.0, rate_hz: int = 16_000) -> NDArray[np.float32]:
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * 300 * at)).astype(np.float32)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with good recordings and every kind of bad one, to be named by a manifest."""
    folder = tmp_path / "corpus"
    (folder / "audio").mkdir(parents=True)
    soundfile.write(folder / "audio/good.flac", tone(), 16_000)
    soundfile.write(folder / "audio/other.wav", tone(2.0, 44_100), 44_100)
    soundfile.write(folder / "audio/zero.flac", np.zeros(16_000, np.float32), 16_000)
    soundfile.write(folder / "audio/clipped.wav", (9 * tone()).clip(-1, 1), 16_000)
    rung = (9 * tone(1.0, 8_000)).clip(-1, 1)
    soundfile.write(folder / "audio/clipped-8k.wav", rung, 8_000)
    soundfile.write(folder / "audio/empty.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(folder / "audio/long.flac", tone(31.0), 16_000)
    nan = np.full(16_000, np.nan, np.float32)
    soundfile.write(folder / "audio/nan.wav", nan, 16_000, subtype="FLOAT")
    (folder / "audio/corrupt.flac").write_bytes(
        (folder / "audio/good.flac").read_bytes()[:2] + b"rubbish" * 40
    )
    soundfile.write(folder / "audio/cut.mp3", tone(3.0), 16_000)
    whole = (folder / "audio/cut.mp3").read_bytes()
    (folder / "audio/cut.mp3").write_bytes(whole[: len(whole) // 2])
    soundfile.write(tmp_path / "outside.flac", tone(), 16_000)
    (folder / "audio/link.flac").symlink_to(tmp_path / "outside.flac")
    return folder


def taken(store: MemoryStore, outcome: IngestOutcome) -> Rows:
    return list(read_table(store, outcome.corpus, "utterances"))


def refused(store: MemoryStore, outcome: IngestOutcome) -> dict[str, str]:
    """Reasons by name."""
    shard = store.manifest(outcome.report).shard(REFUSED)
    lines = store.local_path(shard).read_text().splitlines()
    return {line["name"]: line["reason"] for line in map(json.loads, lines)}


def manifest(folder: Path, rows: Rows) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def take(store: MemoryStore, path: Path, options: TakeIn = OPTIONS) -> IngestOutcome:
    return ingest_speech(path, options, store=store, progress=NoProgress())


def test_a_manifest_in_tsv_is_read(store: MemoryStore, corpus: Path) -> None:
    path = corpus / "manifest.tsv"
    path.write_text(
        "path\tspeaker\ttext\naudio/good.flac\tann\thello  there\naudio/other.wav\t\tGOOD DAY\n"
    )

    outcome = take(store, path)

    first, second = taken(store, outcome)
    assert (first["id"], first["speaker"], first["text"]) == (
        "audio/good.flac",
        "ann",
        "hello there",
    )
    assert (second["speaker"], second["text"], second["num_samples"]) == (
        "unknown",
        "good day",
        32_000,
    )
    assert {first["source"], second["source"]} == {"mine"}
    assert store.manifest(outcome.corpus).licences == ("CC0-1.0",)
    assert len(read_audio(second["audio"])) == 32_000  # type: ignore[arg-type]
    assert (outcome.accepted, outcome.refused) == (2, 0)


def test_what_speakers_agreed_to_is_noted_of_the_rows_that_are_taken(
    store: MemoryStore, corpus: Path
) -> None:
    rows: Rows = [
        {"path": "audio/good.flac", "text": "one", "consent": "research"},
        {"path": "audio/other.wav", "text": "two"},
        {"path": "audio/zero.flac", "text": "silent", "consent": "refused with its row"},
    ]
    path = manifest(corpus, rows)

    unnamed = take(store, path)
    named = take(store, path, OPTIONS.model_copy(update={"consent": "any use"}))

    assert store.manifest(unnamed.corpus).consents == ("research", "unrecorded")
    assert store.manifest(named.corpus).consents == ("any use", "research")


def test_a_folder_is_read_by_the_manifest_in_it(store: MemoryStore, corpus: Path) -> None:
    manifest(corpus, [{"path": "audio/good.flac", "text": "hello"}])

    (row,) = taken(store, take(store, corpus))

    assert (row["id"], row["text"]) == ("audio/good.flac", "hello")


REASONS = {
    "zero": "it is silent: its peak is 0, at least 0.0001",
    "clipped": "of its samples are at full scale, at most 1.0%; record it with less gain",
    "clipped-8k": "it is clipped: ",
    "script": "transcript 'съешь ещё этих' is written in cyrillic, expected latin; --script",
    "empty": "it lasts 0.000 s, at least 0.1 s",
    "long": "it lasts 31.0 s, at most 30 s",
    "nan": "a sample that is NaN or infinite",
    "corrupt": "cannot read corrupt.flac as audio",
    "cut": "of the 48000 samples that its header states; was it cut short?",
    "link": "the path 'audio/link.flac' leaves the folder of the corpus",
    "escape": "the path '../outside.flac' leaves the folder of the corpus",
    "absolute": "leaves the folder of the corpus",
    "gone": "there is no file 'audio/gone.flac'",
    "zero-byte": "holds a zero byte",
    "no-path": "it names no path",
    "no-text": "it has no transcript",
    "symbols": "its transcript '--- ?' has neither letter nor digit",
    "fast": "nobody says 40 words a second, at most 12",
    "number": "the field 'text' must be text, got list",
    "good": "the id 'good' was taken by an earlier row; ids are unique",
}


def test_every_bad_row_is_refused_by_name_and_reason_and_the_rest_goes_on(
    store: MemoryStore, corpus: Path
) -> None:
    rows: Rows = [{"id": "good", "path": "audio/good.flac", "text": "hello"}]
    rows += [
        {"id": name, "path": f"audio/{name}.{suffix}", "text": "hello"}
        for name, suffix in [
            ("zero", "flac"),
            ("clipped", "wav"),
            ("clipped-8k", "wav"),
            ("empty", "wav"),
            ("long", "flac"),
            ("nan", "wav"),
            ("corrupt", "flac"),
            ("cut", "mp3"),
            ("link", "flac"),
            ("gone", "flac"),
        ]
    ]
    rows += [
        {"id": "escape", "path": "../outside.flac", "text": "hello"},
        {"id": "absolute", "path": str(corpus.parent / "outside.flac"), "text": "hello"},
        {"id": "zero-byte", "path": "audio/\0.flac", "text": "hello"},
        {"id": "no-path", "text": "hello"},
        {"id": "no-text", "path": "audio/good.flac", "text": "  "},
        {"id": "symbols", "path": "audio/good.flac", "text": "--- ?"},
        {"id": "script", "path": "audio/good.flac", "text": "съешь ещё этих"},
        {"id": "fast", "path": "audio/good.flac", "text": "word " * 40},
        {"id": "number", "path": "audio/good.flac", "text": ["hello"]},
        {"id": "good", "path": "audio/other.wav", "text": "hello"},
        {"id": "last", "path": "audio/other.wav", "text": "hello"},
    ]

    outcome = take(store, manifest(corpus, rows))

    assert [row["id"] for row in taken(store, outcome)] == ["good", "last"]
    reasons = refused(store, outcome)
    assert reasons.keys() == REASONS.keys()
    for name, reason in REASONS.items():
        assert reason in reasons[name], name
    report = store.local_path(store.manifest(outcome.report).shard(REPORT)).read_text()
    assert json.loads(report) == {"accepted": 2, "corpus": "speech_corpus", "refused": 20}
    assert outcome.refusals[0].row == "manifest.jsonl:2"


def test_lines_that_are_no_rows_are_refused(store: MemoryStore, corpus: Path) -> None:
    path = corpus / "rows.jsonl"
    good = json.dumps({"path": "audio/good.flac", "text": "hello"})
    path.write_text(f"not json\n\n[1, 2]\n{good}\n" + '{"text": "' + "x" * 1_000_000 + '"}\n')

    outcome = take(store, path)

    assert [(one.row, one.reason.split(":")[0]) for one in outcome.refusals] == [
        ("rows.jsonl:1", "the line is not JSON"),
        ("rows.jsonl:3", "a JSON object is expected, got list"),
        ("rows.jsonl:5", "the line is over 1000000 bytes long"),
    ]


def test_a_row_of_tsv_with_too_few_columns_is_refused(store: MemoryStore, corpus: Path) -> None:
    path = corpus / "manifest.tsv"
    path.write_text("path\ttext\naudio/good.flac\naudio/good.flac\thello\n")

    outcome = take(store, path)

    assert outcome.refusals[0].reason == "it has 1 columns, but the header has 2"


def test_a_tsv_without_the_columns_is_refused_whole(store: MemoryStore, corpus: Path) -> None:
    path = corpus / "manifest.tsv"
    path.write_text("file\twords\na\tb\n")

    with pytest.raises(DataError, match="must name the columns path and text"):
        take(store, path)


def test_a_tsv_that_is_no_text_is_refused_whole(store: MemoryStore, corpus: Path) -> None:
    path = corpus / "manifest.tsv"
    path.write_bytes(b"path\ttext\n\xff\xfe\tb\n")

    with pytest.raises(DataError, match="cannot be read as UTF-8 TSV"):
        take(store, path)


def librispeech(root: Path) -> None:
    """Two readers, one chapter each, in capitals; one recording without a transcript."""
    for reader, chapter, count in (("84", "121", 2), ("99", "7", 1)):
        folder = root / reader / chapter
        folder.mkdir(parents=True)
        lines = []
        for index in range(count):
            name = f"{reader}-{chapter}-{index:04d}"
            soundfile.write(folder / f"{name}.flac", tone(1 + index), 16_000)
            lines.append(f"{name} A QUIET MORNING {'AGAIN ' * index}")
        (folder / f"{reader}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
    soundfile.write(root / "99" / "7" / "99-7-0001.flac", tone(), 16_000)


def test_a_librispeech_tree_is_read(store: MemoryStore, tmp_path: Path) -> None:
    librispeech(tmp_path / "dev-clean")

    outcome = take(store, tmp_path / "dev-clean")

    rows = taken(store, outcome)
    assert [(row["id"], row["speaker"], row["text"]) for row in rows] == [
        ("84-121-0000", "84", "a quiet morning"),
        ("84-121-0001", "84", "a quiet morning again"),
        ("99-7-0000", "99", "a quiet morning"),
    ]
    assert refused(store, outcome) == {"99-7-0001": "it has no transcript"}
    assert outcome.refusals[0].row == "99/7/99-7-0001.flac"


def test_the_same_corpus_gives_the_same_artifact(tmp_path: Path) -> None:
    librispeech(tmp_path / "tree")

    first, second = (take(MemoryStore(), tmp_path / "tree") for _ in range(2))

    assert first == second


def test_a_link_out_of_a_tree_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    librispeech(tmp_path / "tree")
    soundfile.write(tmp_path / "secret.flac", tone(), 16_000)
    (tmp_path / "tree/99/7/99-7-0009.flac").symlink_to(tmp_path / "secret.flac")

    reasons = refused(store, take(store, tmp_path / "tree"))

    assert "leaves the folder" in reasons["99-7-0009"]


@pytest.mark.slow
def test_a_lhotse_cutset_is_read(store: MemoryStore, corpus: Path) -> None:
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed")
    supervision = lhotse.SupervisionSegment(
        id="s", recording_id="r", start=0, duration=1, text="HELLO YOU", speaker="ann"
    ).with_alignment(
        "word",
        [
            lhotse.supervision.AlignmentItem("hello", 0.0, 0.5),
            lhotse.supervision.AlignmentItem("you", 0.5, 0.25),
        ],
    )
    cuts = [
        _cut(lhotse, corpus / "audio/good.flac", "audio/good.flac", "inside", supervision),
        _cut(lhotse, corpus.parent / "outside.flac", "../outside.flac", "outside", supervision),
        _cut(lhotse, corpus / "audio/good.flac", "audio/good.flac", "mute", None),
    ]
    lhotse.CutSet.from_cuts(cuts).to_file(corpus / "cuts.jsonl.gz")

    outcome = take(store, corpus / "cuts.jsonl.gz")

    (row,) = taken(store, outcome)
    assert (row["id"], row["speaker"], row["text"]) == ("inside", "ann", "hello you")
    assert row["words"] == [
        {"word": "hello", "start": 0, "stop": 8_000},
        {"word": "you", "start": 8_000, "stop": 12_000},
    ]
    assert refused(store, outcome) == {
        "outside": "the path '../outside.flac' leaves the folder of the corpus",
        "mute": "it has no transcript",
    }


@pytest.mark.slow
def test_a_cut_that_runs_a_command_is_refused(store: MemoryStore, corpus: Path) -> None:
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed")
    good = corpus / "audio/good.flac"
    cut = _cut(lhotse, good, "audio/good.flac", "fine", _said(lhotse, "hello"))
    bad = _cut(lhotse, good, f"cat {good}", "shell", _said(lhotse, "hello"))
    bad.recording.sources[0].type = "command"
    lhotse.CutSet.from_cuts([cut, bad]).to_file(corpus / "cuts.jsonl")

    reasons = refused(store, take(store, corpus / "cuts.jsonl"))

    assert reasons == {"shell": "recordings are files, this one is of type 'command'"}


def _said(lhotse: Any, text: str) -> Any:
    return lhotse.SupervisionSegment(id="s", recording_id="r", start=0, duration=1, text=text)


def _cut(lhotse: Any, file: Path, source: str, name: str, supervision: object) -> Any:
    recording = lhotse.Recording.from_file(file, recording_id=name)
    recording.sources[0].source = source
    supervisions = [] if supervision is None else [supervision]
    return lhotse.MonoCut(
        id=name, start=0, duration=1.0, channel=0, recording=recording, supervisions=supervisions
    )


def test_a_zipped_manifest_is_no_cutset(store: MemoryStore, corpus: Path) -> None:
    path = corpus / "manifest.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"path": "audio/good.flac", "text": "hello"}))

    assert take(store, path).accepted == 1


def test_limits_are_settings(store: MemoryStore, corpus: Path) -> None:
    rows: Rows = [{"path": "audio/long.flac", "text": "hello"}]
    options = TakeIn(name="mine", speech=SpeechLimits(max_seconds=40))

    assert take(store, manifest(corpus, rows), options).accepted == 1


@pytest.mark.parametrize(
    ("script", "accepted"), [("cyrillic", ["b", "c"]), ("any", ["a", "b", "c"])]
)
def test_a_corpus_is_in_the_script_that_is_asked_for(
    store: MemoryStore, corpus: Path, script: Script, accepted: list[str]
) -> None:
    texts = {"a": "hello", "b": "привет, Siri", "c": "12"}
    rows: Rows = [
        {"id": name, "path": "audio/good.flac", "text": text} for name, text in texts.items()
    ]

    outcome = take(store, manifest(corpus, rows), TakeIn(name="mine", script=script))

    assert [row["id"] for row in taken(store, outcome)] == accepted


def _no_good_row(folder: Path) -> Path:
    return manifest(folder, [{"path": "gone.flac", "text": "hello"}])


def _empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _strange_file(folder: Path) -> Path:
    (folder / "corpus.zip").write_bytes(b"PK")
    return folder / "corpus.zip"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_good_row, r"no row of manifest\.jsonl can be used; manifest\.jsonl:1: there is no"),
        (_empty_folder, "empty holds no recording"),
        (_strange_file, r"corpus\.zip: a folder, a \.tsv or \.jsonl manifest, or a lhotse CutSet"),
    ],
)
def test_a_source_without_rows_is_refused(
    store: MemoryStore, corpus: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        take(store, make(corpus))


def test_a_source_that_is_not_there_is_missed(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"there is no .*nothing; next: name a file or folder"):
        take(store, tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "tidy"),
    [("HELLO  THERE", "hello there"), ("Hello THERE", "Hello THERE"), (" 42 ", "42")],
)
def test_transcripts_in_capitals_are_lower_cased(text: str, tidy: str) -> None:
    assert tidy_transcript(text) == tidy


@pytest.mark.slow
@pytest.mark.skipif(
    REAL_SPEECH is None, reason="INTERLOOM_TEST_SPEECH names no folder of real recordings"
)
def test_real_recordings_are_taken_in(store: MemoryStore) -> None:
    assert REAL_SPEECH is not None

    outcome = take(store, Path(REAL_SPEECH) / "manifest.tsv")

    rows = taken(store, outcome)
    assert outcome.accepted > 100
    assert len({row["speaker"] for row in rows}) > 1
    assert all(row["text"] for row in rows)
