"""The codes of a whole corpus: made unit by unit in a workspace, then put into one table.

Whoever makes a unit, and whenever, its file is the same.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interloom.audio.files import SAMPLE_RATE_HZ, read_audio, stream_audio
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Shard
from interloom.core.errors import DataError
from interloom.core.files import written_whole
from interloom.core.spans import FrameClock
from interloom.corpora.fan_out import Make, make_units
from interloom.corpora.tables import SPEECH_TOKENS, batched, write_table
from interloom.corpora.units import Unit, cut_evenly, read_unit
from interloom.ports.catalog import Metric
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Part, Workspace
from interloom.speech_tokenizer.alignment import AlignedWord
from interloom.speech_tokenizer.encoding import Codes
from interloom.speech_tokenizer.features import TABLE
from interloom.speech_tokenizer.runtime import SpeechTokenizer, load_speech_tokenizer
from interloom.speech_tokenizer.scoring import codebook_metrics

TOKENS_TABLE = "tokens"
PRECISION = "fp32, as the utterance alone in blocks, near ties computed again"

_ROWS = 64
_UNIT_ROWS = 2 * _ROWS
_COUNTS = b"counts"  # in a unit's file, beside its rows
_LONG_SAMPLES = 120 * SAMPLE_RATE_HZ  # what is longer is read and encoded piece by piece
_MIN_ALIGNED = 0.5  # of a transcript's words; with fewer it is taken for another recording's


@dataclass(frozen=True, slots=True)
class TokenizedCorpus:
    """The stored codes and how they are spread."""

    ref: ArtifactRef
    metrics: tuple[Metric, ...]


@dataclass(slots=True)
class _Counts:
    """What is counted on the way."""

    codes_K: NDArray[np.int64]
    num_again: int = 0
    aligned: int = 0
    not_aligned: int = 0

    def to_json(self) -> bytes:
        """For a unit's file."""
        numbers = (self.num_again, self.aligned, self.not_aligned)
        return json.dumps([self.codes_K.tolist(), *numbers]).encode()

    def add(self, data: bytes) -> None:
        """Add what ``to_json`` gave."""
        codes, num_again, aligned, not_aligned = json.loads(data)
        self.codes_K += np.asarray(codes, np.int64)
        self.num_again += num_again
        self.aligned += aligned
        self.not_aligned += not_aligned

    def metrics(self) -> tuple[Metric, ...]:
        """For the catalog; alignment only where there was something to align."""
        num_codes = int(self.codes_K.sum())
        again = Metric("tokens/computed_again", self.num_again / max(1, num_codes))
        aligned = (
            (
                Metric("tokens/aligned_utterances", float(self.aligned)),
                Metric("tokens/unaligned_utterances", float(self.not_aligned)),
            )
            if self.aligned or self.not_aligned
            else ()
        )
        return (*codebook_metrics(self.codes_K, prefix="tokens"), again, *aligned)


@dataclass(frozen=True, slots=True)
class CorpusTokenizer:
    """Makes the codes of one corpus.

    Words of transcripts whose places are not known are aligned, where that is plausible.

    Attributes:
        speech: Utterances.
        tokenizer: What gives them codes.
        store: Holds both.
        work: Where finished units lie.
    """

    speech: ArtifactRef
    tokenizer: ArtifactRef
    store: ArtifactStore
    work: Workspace

    def make(self, part: Part) -> None:
        """Make the units of a part, for ``write`` to put together.

        Raises:
            DataError: Audio cannot be read, or a word ends after its utterance.
        """
        for done, _ in enumerate(self._units(part), start=1):
            self.work.progress.update(done, None, "shards")

    def write(self) -> TokenizedCorpus:
        """Write the codes of every utterance, in the corpus' order; make what is not there yet.

        Raises:
            DataError: Audio cannot be read, or a word ends after its utterance.
        """
        facts = self.store.manifest(self.tokenizer).facts
        counts = _Counts(np.zeros(facts["codebook_size"], np.int64))
        with self.store.draft(ArtifactKind.SPEECH_TOKENS) as draft:
            write_table(draft, TOKENS_TABLE, SPEECH_TOKENS, self._rows(counts))
            clock = FrameClock(SAMPLE_RATE_HZ, facts["samples_per_token"])
            ref = draft.commit(
                parents=(self.speech, self.tokenizer),
                licences=self.store.manifest(self.speech).licences,
                facts={
                    "codebook_size": facts["codebook_size"],
                    "frame_rate_hz": str(clock.frame_rate_hz),
                    "made_by": "encoder",
                    "precision": PRECISION,
                    "samples_per_token": facts["samples_per_token"],
                    "tokenizer": self.tokenizer.id,
                },
            )
        return TokenizedCorpus(ref, counts.metrics())

    def _shards(self) -> Sequence[Shard]:
        return self.store.manifest(self.speech).shards_under(f"{TABLE}/")

    def _units(self, part: Part | None = None) -> Iterator[Unit]:
        """All units or those of a part, made in as many processes as there may be."""
        self._folder.mkdir(exist_ok=True)
        units = cut_evenly(self._shards(), _UNIT_ROWS)
        return make_units(
            (unit for unit in units if part is None or part.takes(unit.index)),
            self._maker,
            is_made=lambda unit: self._path(unit).is_file(),
            num_workers=self.work.num_workers,
        )

    def _rows(self, counts: _Counts) -> Iterator[Mapping[str, Any]]:
        """The rows of all units; adds to the counts."""
        done, total = 0, self.store.manifest(self.speech).count("rows")
        for unit in self._units():
            with pq.ParquetFile(self._path(unit)) as file:
                table = file.read()
            counts.add(table.schema.metadata[_COUNTS])
            yield from table.to_pylist()
            done += table.num_rows
            self.work.progress.update(done, total, "utterances")

    def _maker(self) -> Make:
        tokenizer = load_speech_tokenizer(self.store, self.tokenizer)
        return partial(self._make, tokenizer=tokenizer)

    def _make(self, unit: Unit, *, tokenizer: SpeechTokenizer) -> None:
        """Write a unit's file, whole or not at all."""
        counts = _Counts(np.zeros(tokenizer.codebook_size, np.int64))
        made = list[Mapping[str, Any]]()
        for batch in batched(read_unit(self.store, self._shards(), unit), _ROWS):
            encoded = _encode(batch, tokenizer, counts)
            made += [
                _token_row(row, codes, tokenizer, counts)
                for row, codes in zip(batch, encoded, strict=True)
            ]
        schema = SPEECH_TOKENS.with_metadata({_COUNTS: counts.to_json()})
        with written_whole(self._path(unit)) as unfinished:
            pq.write_table(pa.Table.from_pylist([*map(dict, made)], schema=schema), unfinished)

    @property
    def _folder(self) -> Path:
        return self.work.folder / "shards"

    def _path(self, unit: Unit) -> Path:
        return self._folder / f"{unit.name}.parquet"


def _encode(
    batch: Sequence[Mapping[str, Any]], tokenizer: SpeechTokenizer, counts: _Counts
) -> list[Codes]:
    """The codes of some rows; long ones never lie in memory as a whole.

    Raises:
        DataError: The audio of a row cannot be read; names the row.
    """
    short = [row["num_samples"] <= _LONG_SAMPLES for row in batch]
    waveforms = [_heard(row) for row, is_short in zip(batch, short, strict=True) if is_short]
    encodings = tokenizer.encode_all(waveforms)
    counts.num_again += encodings.num_again
    found = iter(encodings.codes)
    return [
        next(found)
        if is_short
        else np.concatenate(list(tokenizer.stream(stream_audio(row["audio"]))))
        for row, is_short in zip(batch, short, strict=True)
    ]


def _heard(row: Mapping[str, Any]) -> NDArray[np.float32]:
    """The sound of a row."""
    try:
        return read_audio(row["audio"])
    except DataError as error:
        raise DataError(f"utterance {row['id']!r}: {error}") from error


def _token_row(
    row: Mapping[str, Any], codes: Codes, tokenizer: SpeechTokenizer, counts: _Counts
) -> Mapping[str, Any]:
    """The utterance's row with codes for audio and words in codes; adds to the counts."""
    counts.codes_K += np.bincount(codes, minlength=len(counts.codes_K))
    kept = {name: row[name] for name in SPEECH_TOKENS.names if name not in {"codes", "words"}}
    if row["words"]:
        words = _words_in_codes(row["id"], row["words"], len(codes), tokenizer)
    else:
        words = _aligned_words(row, codes, tokenizer, counts)
    return {**kept, "codes": codes, "words": words}


def _aligned_words(
    row: Mapping[str, Any], codes: Codes, tokenizer: SpeechTokenizer, counts: _Counts
) -> list[dict[str, Any]]:
    """The words of the row's text, in codes, where they were found; none if it is not plausible.

    Words that are not certain are left out, so that what is used can be relied on.
    """
    text = row["text"].split()
    if not text or row["num_samples"] > _LONG_SAMPLES:
        return []
    try:
        found = tokenizer.align(codes, text, _heard(row))
    except DataError:  # more words than frames
        found = []
    accepted = [one for one in found if not one.refusal]
    if len(accepted) < max(1.0, _MIN_ALIGNED * len(text)):
        counts.not_aligned += 1
        return []
    counts.aligned += 1
    return [_nearest_codes(one, tokenizer.samples_per_token) for one in accepted]


def _nearest_codes(found: AlignedWord, samples_per_token: int) -> dict[str, Any]:
    """A word with the nearest edges between codes, so that neighbours share one."""
    half = samples_per_token // 2
    start = min(found.span.start + half, found.span.stop - 1) // samples_per_token
    stop = max(start + 1, (found.span.stop + half) // samples_per_token)
    return {"word": found.word, "start": start, "stop": stop}


def _words_in_codes(
    utterance_id: str,
    words: Sequence[Mapping[str, Any]],
    num_codes: int,
    tokenizer: SpeechTokenizer,
) -> list[dict[str, Any]]:
    """Spans in samples as the shortest spans of codes that cover them."""
    spans = [tokenizer.clock.span(word["start"], word["stop"]) for word in words]
    if spans and spans[-1].stop > num_codes:
        raise DataError(
            f"utterance {utterance_id!r}: the words end at code {spans[-1].stop}, but its audio "
            f"gives {num_codes} codes; was it trimmed or resampled after aligning?"
        )
    return [
        {"word": word["word"], "start": span.start, "stop": span.stop}
        for word, span in zip(words, spans, strict=True)
    ]
