"""Take in recordings with transcripts.

Accepted: a LibriSpeech-style tree (``*.trans.txt`` with lines ``ID TEXT`` beside the recordings), a
manifest (``.tsv`` or ``.jsonl`` with ``path`` and ``text``, at will ``id``, ``speaker``,
``licence`` and ``consent``; paths are relative to the manifest), a folder that holds
``manifest.tsv`` or ``manifest.jsonl``, a lhotse CutSet (``.jsonl`` or ``.jsonl.gz``).

Transcripts without a lower-case letter are lower-cased, so that a corpus in capitals fits the rest.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import SAMPLE_RATE_HZ, audio_seconds, encode_flac, read_audio
from interloom.config.corpora import Script, SpeechLimits, TakeIn
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.cutset import read_cutset
from interloom.corpora.intake import IngestOutcome, Intake, confined, take_in
from interloom.corpora.lines import Placed, read_jsonl, read_tsv, text_field
from interloom.corpora.ordered import in_order
from interloom.corpora.recorded import Recorded, Unreadable
from interloom.corpora.tables import LABELLED_UTTERANCES, UTTERANCES, Row, write_table
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore
from interloom.ports.transcriber import Transcriber
from interloom.text.scripts import main_script
from interloom.text.speakable import has_letter

_MANIFESTS = ("manifest.tsv", "manifest.jsonl")
_AUDIO = (".flac", ".wav", ".ogg", ".opus", ".mp3")
_MAX_ROW_BYTES = 1_000_000
_ROWS_PER_SHARD = 256
_FULL_SCALE = 0.98  # resampling lets what was cut at 1 ring about it
_CUT_OFF_S = 0.25  # decoders of lossy forms drop some milliseconds


def ingest_speech(
    path: Path,
    options: TakeIn,
    *,
    store: ArtifactStore,
    progress: Progress,
    transcriber: Transcriber | None = None,
) -> IngestOutcome:
    """Take in a speech corpus as 16 kHz mono FLAC.

    Args:
        path: A folder, a manifest or a CutSet.
        options: Name, licence and limits.
        store: Keeps corpus and report.
        progress: Told the number of rows so far.
        transcriber: Writes down what is said in recordings without a transcript, which are refused
            otherwise. The artifact's facts name it, and the rows that it labelled.

    Raises:
        MissingError: ``path`` does not exist.
        DataError: It is none of the accepted forms, or no row can be used.
    """

    def write(intake: Intake) -> ArtifactRef:
        rows = _accepted(_found(path), options, intake, progress, transcriber)
        licences: set[str] = set()
        consents: set[str] = set()
        with store.draft(ArtifactKind.SPEECH_CORPUS) as draft:
            write_table(
                draft,
                "utterances",
                UTTERANCES if transcriber is None else LABELLED_UTTERANCES,
                _noting(rows, licences, consents),
                rows_per_shard=_ROWS_PER_SHARD,
            )
            labelled = {} if transcriber is None else {"labelled_by": transcriber.name}
            return draft.commit(licences=tuple(licences), consents=tuple(consents), facts=labelled)

    return take_in(
        path, ArtifactKind.SPEECH_CORPUS, blocked=options.blocked, store=store, write=write
    )


def _noting(rows: Iterable[Row], licences: set[str], consents: set[str]) -> Iterator[Row]:
    """The rows, whose licences and consents are added to the sets."""
    for row in rows:
        licences.add(row["licence"])
        consents.add(row["consent"])
        yield row


def _accepted(
    found: Iterator[Recorded | Unreadable],
    options: TakeIn,
    intake: Intake,
    progress: Progress,
    transcriber: Transcriber | None,
) -> Iterator[Row]:
    """Check each row; refuse it or pass it on."""
    judge = partial(_judged, options=options, transcriber=transcriber)
    for number, judged in enumerate(in_order(judge, found, num_threads=2, ahead=16), start=1):
        progress.update(number, None, f"{intake.refused} refused")
        if isinstance(judged, Unreadable):
            intake.refuse(judged.row, judged.name, judged.reason)
        else:
            where, row = judged
            yield from intake.accept(where, row["id"], row)


def _judged(
    found: Recorded | Unreadable, *, options: TakeIn, transcriber: Transcriber | None
) -> tuple[str, dict[str, Any]] | Unreadable:
    """Where a row stands and the row, or why it is refused."""
    if isinstance(found, Unreadable):
        return found
    try:
        text = tidy_transcript(_transcript(found, options.speech, transcriber))
        _check_script(text, options.script)
        samples_S = _checked_samples(found, options.speech)
        _check_rate(text, len(samples_S) / SAMPLE_RATE_HZ, options.speech)
    except DataError as error:
        return Unreadable(found.row, found.name, str(error))
    return found.row, {
        "id": found.name,
        "split": "train",
        "speaker": found.speaker or "unknown",
        "text": text,
        "audio": encode_flac(samples_S),
        "num_samples": len(samples_S),
        "words": list(found.words),
        "source": options.name,
        "licence": found.licence or options.licence,
        "consent": found.consent or options.consent,
        "facts": [],
        "labelled_by": "" if found.text.strip() or transcriber is None else transcriber.name,
    }


def _transcript(found: Recorded, limits: SpeechLimits, transcriber: Transcriber | None) -> str:
    """What came with the recording, or else what a recogniser hears in it."""
    if found.text.strip() or transcriber is None:
        return found.text
    return transcriber.transcribe(_checked_samples(found, limits))


def tidy_transcript(text: str) -> str:
    """Single spaces; lower case if there is no lower-case letter.

    Raises:
        DataError: There is nothing to say.
    """
    tidy = " ".join(text.split())
    if not tidy:
        raise DataError("it has no transcript")
    if not has_letter(tidy):
        raise DataError(f"its transcript {tidy[:40]!r} has neither letter nor digit")
    return tidy if any(character.islower() for character in tidy) else tidy.lower()


def _checked_samples(found: Recorded, limits: SpeechLimits) -> NDArray[np.float32]:
    """Decode, within the limits.

    Raises:
        DataError: The recording cannot be used; the message says why.
    """
    stated = found.seconds()
    _check_length(stated, limits)
    samples_S = found.read()
    seconds = len(samples_S) / SAMPLE_RATE_HZ
    if stated - seconds > _CUT_OFF_S:
        raise DataError(f"it is cut off: it should last {stated:.1f} s, but holds {seconds:.1f} s")
    _check_length(seconds, limits)
    if (peak := float(np.abs(samples_S).max())) < limits.silence_peak:
        raise DataError(f"it is silent: its peak is {peak:.1g}, at least {limits.silence_peak:g}")
    clipped = float((np.abs(samples_S) >= _FULL_SCALE).mean())
    if clipped > limits.max_clipped:
        raise DataError(
            f"it is clipped: {clipped:.1%} of its samples are at full scale, at most "
            f"{limits.max_clipped:.1%}; record it with less gain"
        )
    return samples_S


def _check_script(text: str, script: Script) -> None:
    """Refuse a transcript in another script than that of the corpus.

    Raises:
        DataError: Most of its letters are of another.
    """
    if script != "any" and (found := main_script(text)) not in {script, ""}:
        raise DataError(
            f"its transcript {text[:40]!r} is written in {found}, expected {script}; "
            "--script takes in another, or any"
        )


def _check_rate(text: str, seconds: float, limits: SpeechLimits) -> None:
    """Refuse what nobody can have said in that time.

    Raises:
        DataError: The transcript has too many words.
    """
    if (rate := len(text.split()) / seconds) > limits.max_words_per_second:
        raise DataError(
            f"nobody says {rate:.0f} words a second, at most {limits.max_words_per_second:g}; "
            "is it the transcript of another recording?"
        )


def _check_length(seconds: float, limits: SpeechLimits) -> None:
    """Refuse what is too short or too long.

    Raises:
        DataError: It is.
    """
    if seconds < limits.min_seconds:
        raise DataError(f"it lasts {seconds:.3f} s, at least {limits.min_seconds:g} s")
    if seconds > limits.max_seconds:
        raise DataError(f"it lasts {seconds:.1f} s, at most {limits.max_seconds:g} s")


def _found(path: Path) -> Iterator[Recorded | Unreadable]:
    """All rows of a source, whatever its form.

    Raises:
        DataError: The form is not known.
    """
    manifests = [path / name for name in _MANIFESTS if (path / name).is_file()]
    if manifests:
        yield from _found(manifests[0])
    elif path.is_dir():
        yield from _tree(path)
    elif path.suffix == ".tsv":
        yield from _manifest(path.parent, read_tsv(path))
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        if _is_cutset(path):
            yield from read_cutset(path)
        else:
            rows = read_jsonl(path, max_row_bytes=_MAX_ROW_BYTES)
            yield from _manifest(path.parent, rows)
    else:
        raise DataError(
            f"{path.name}: a folder, a .tsv or .jsonl manifest, or a lhotse CutSet (.jsonl.gz) "
            "is expected"
        )


def _is_cutset(path: Path) -> bool:
    """Whether the first row is a lhotse cut."""
    first = next(iter(read_jsonl(path, max_row_bytes=_MAX_ROW_BYTES)), None)
    return first is not None and str((first.values or {}).get("type", "")).endswith("Cut")


def _manifest(root: Path, rows: Iterator[Placed]) -> Iterator[Recorded | Unreadable]:
    """The rows of a manifest."""
    for placed in rows:
        if placed.values is None:
            yield Unreadable(placed.row, "", placed.reason)
            continue
        try:
            yield _from_manifest(root, placed.row, placed.values)
        except DataError as error:
            name = str(placed.values.get("id") or placed.values.get("path") or "")
            yield Unreadable(placed.row, name, str(error))


def _from_manifest(root: Path, row: str, values: dict[str, Any]) -> Recorded:
    """One row of a manifest; without an id, the path is its id.

    Raises:
        DataError: A field is not text, or the path cannot be used.
    """
    path = text_field(values, "path", "audio_filepath", "audio")
    if not path:
        raise DataError("it names no path")
    file = confined(root, path)
    return Recorded(
        row=row,
        name=text_field(values, "id") or path,
        speaker=text_field(values, "speaker"),
        text=text_field(values, "text"),
        licence=text_field(values, "licence", "license"),
        consent=text_field(values, "consent"),
        seconds=partial(audio_seconds, file),
        read=partial(read_audio, file),
    )


def _tree(root: Path) -> Iterator[Recorded | Unreadable]:
    """A LibriSpeech-style tree, folder by folder, in order of name.

    Raises:
        DataError: There is no recording in it.
    """
    folders = sorted({file.parent for file in root.rglob("*") if file.suffix.lower() in _AUDIO})
    if not folders:
        raise DataError(f"{root.name} holds no recording ({', '.join(_AUDIO)})")
    for folder in folders:
        transcripts = _transcripts(folder)
        files = (file for file in folder.iterdir() if file.suffix.lower() in _AUDIO)
        for file in sorted(files):
            yield _from_tree(root, file, transcripts.get(file.stem, ""))


def _transcripts(folder: Path) -> dict[str, str]:
    """The transcripts of one folder by name of the recording."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.trans.txt")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, text = line.strip().partition(" ")
            found[name] = text
    return found


def _from_tree(root: Path, file: Path, text: str) -> Recorded | Unreadable:
    """One recording of a tree; the speaker is the first part of its name, as LibriSpeech has it."""
    row = file.relative_to(root).as_posix()
    try:
        inside = confined(root, row)
    except DataError as error:
        return Unreadable(row, file.stem, str(error))
    return Recorded(
        row=row,
        name=file.stem,
        speaker=file.stem.split("-")[0],
        text=text,
        licence="",
        seconds=partial(audio_seconds, inside),
        read=partial(read_audio, inside),
    )
