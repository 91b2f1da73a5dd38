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

from interloom.audio.files import SAMPLE_RATE_HZ, encode_flac
from interloom.config.corpora import SpeechLimits, TakeIn
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.intake import IngestOutcome, Intake, take_in
from interloom.corpora.ordered import in_order
from interloom.corpora.recorded import Recorded, Unreadable
from interloom.corpora.recording_checks import (
    check_rate,
    check_script,
    checked_samples,
    tidy_transcript,
)
from interloom.corpora.recording_sources import recordings_of
from interloom.corpora.tables import LABELLED_UTTERANCES, UTTERANCES, Row, write_table
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore
from interloom.ports.transcriber import Transcriber

_ROWS_PER_SHARD = 256


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
        rows = _accepted(recordings_of(path), options, intake, progress, transcriber)
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
        check_script(text, options.script)
        samples_S = checked_samples(found, options.speech)
        check_rate(text, len(samples_S) / SAMPLE_RATE_HZ, options.speech)
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
    return transcriber.transcribe(checked_samples(found, limits))
