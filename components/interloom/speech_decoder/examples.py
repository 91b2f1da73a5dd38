"""Training crops: codes with the waveform they stand for, drawn by index.

Shapes: B rows, T tokens, S samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import read_audio, to_pcm16
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.tables import Split, read_table
from interloom.ports.store import ArtifactStore
from interloom.speech_decoder.model import EDGE_TOKENS, SAMPLE_RATE_HZ

_FULL_SCALE = 32768.0


@dataclass(frozen=True, slots=True)
class Utterance:
    """Codes and their sound. ``waveform`` has exactly ``samples_per_token`` samples a code."""

    id: str
    speaker: str
    codes: NDArray[np.int32]
    waveform: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where utterances come from: their audio and their codes, joined by id."""

    speech: ArtifactRef
    tokens: ArtifactRef
    samples_per_token: int

    def utterances(self, store: ArtifactStore, split: Split) -> Iterator[Utterance]:
        """Those that have both audio and codes, in the order of the speech corpus.

        Raises:
            DataError: An utterance's codes and audio differ in length by over one token.
        """
        codes: dict[str, Any] = {
            row["id"]: np.asarray(row["codes"], dtype=np.int32)
            for row in read_table(
                store, self.tokens, "tokens", split=split, columns=["id", "codes"]
            )
        }
        columns = ["id", "speaker", "audio"]
        for row in read_table(store, self.speech, "utterances", split=split, columns=columns):
            if len(codes.get(row["id"], ())):
                yield self._joined(row, codes[row["id"]])

    def _joined(self, row: Mapping[str, Any], codes_T: NDArray[np.int32]) -> Utterance:
        """One utterance, its audio cut or filled with silence to whole tokens."""
        audio = read_audio(row["audio"])
        wanted = len(codes_T) * self.samples_per_token
        if abs(len(audio) - wanted) > self.samples_per_token:
            raise DataError(
                f"utterance {row['id']!r}: {len(codes_T)} codes stand for {wanted} samples, "
                f"but the audio has {len(audio)}; were the tokens made from this corpus?"
            )
        waveform = np.zeros(wanted, dtype=np.float32)
        waveform[: len(audio)] = audio[:wanted]
        return Utterance(row["id"], row["speaker"], codes_T, waveform)


@dataclass(frozen=True, slots=True)
class Crops:
    """Equal crops of training speech.

    Attributes:
        codes: (B, T); the code for "no speech" stands outside an utterance.
        waveform: (B, S); silent outside an utterance.
        inside: (B, T); which positions lie in an utterance.
        speakers: (B,); index of each crop's speaker.
    """

    codes: NDArray[np.int64]
    waveform: NDArray[np.float32]
    inside: NDArray[np.bool_]
    speakers: NDArray[np.int64]


class SpeechBank:
    """All training speech, its samples in a file that is mapped and not loaded."""

    def __init__(
        self, utterances: Sequence[tuple[str, NDArray[np.int32]]], samples: NDArray[np.int16]
    ) -> None:
        """Index what ``build_bank`` wrote.

        Args:
            utterances: Speaker and codes of each, in the order of their samples.
            samples: All utterances' samples, one after the other.
        """
        self._codes = [codes for _, codes in utterances]
        self._speakers = [speaker for speaker, _ in utterances]
        self._ends = np.cumsum([len(codes) for codes in self._codes])
        self._samples = samples
        self._samples_per_token = len(samples) // int(self._ends[-1])

    @property
    def tokens_of_speakers(self) -> dict[str, int]:
        """Number of tokens of each speaker, by name."""
        counts: dict[str, int] = {}
        for speaker, codes in zip(self._speakers, self._codes, strict=True):
            counts[speaker] = counts.get(speaker, 0) + len(codes)
        return dict(sorted(counts.items()))

    def utterances(self, speaker: str | None = None) -> Iterator[Utterance]:
        """All utterances, or those of a speaker, whole; their ids are their places."""
        step = self._samples_per_token
        for place, codes in enumerate(self._codes):
            if speaker in {None, self._speakers[place]}:
                stop = int(self._ends[place])
                samples = self._samples[(stop - len(codes)) * step : stop * step]
                waveform = samples.astype(np.float32) / np.float32(_FULL_SCALE)
                yield Utterance(str(place), self._speakers[place], codes, waveform)

    def crops(
        self,
        rng: np.random.Generator,
        *,
        num_crops: int,
        num_tokens: int,
        no_speech: int,
        speakers: Sequence[str],
    ) -> Crops:
        """Crops at places that are equally likely over all tokens."""
        step = self._samples_per_token
        crops = Crops(
            np.full((num_crops, num_tokens), no_speech, dtype=np.int64),
            np.zeros((num_crops, num_tokens * step), dtype=np.float32),
            np.zeros((num_crops, num_tokens), dtype=np.bool_),
            np.zeros(num_crops, dtype=np.int64),
        )
        for row in range(num_crops):
            index = int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))
            length = len(self._codes[index])
            edge = min(EDGE_TOKENS, length - 1, num_tokens - 1)  # some of it is always inside
            slack = length - num_tokens
            start = int(rng.integers(min(0, slack) - edge, max(0, slack) + edge + 1))
            first, last = max(0, start), min(length, start + num_tokens)
            base = int(self._ends[index]) - length
            crops.codes[row, first - start : last - start] = self._codes[index][first:last]
            crops.inside[row, first - start : last - start] = True
            crops.waveform[row, (first - start) * step : (last - start) * step] = (
                self._samples[(base + first) * step : (base + last) * step] / _FULL_SCALE
            )
            crops.speakers[row] = speakers.index(self._speakers[index])
        return crops


def build_bank(
    corpus: Corpus, store: ArtifactStore, path: Path, *, max_hours: float | None
) -> SpeechBank:
    """Write the training speech to ``path`` and map it.

    Raises:
        DataError: No training utterance has both audio and codes.
    """
    utterances = corpus.utterances(store, "train")
    kept: list[tuple[str, NDArray[np.int32]]] = []
    budget = None if max_hours is None else max_hours * 3600 * SAMPLE_RATE_HZ
    written = 0
    with path.open("wb") as file:
        for utterance in utterances:
            kept.append((utterance.speaker, utterance.codes))
            file.write(to_pcm16(utterance.waveform).astype("<i2").tobytes())
            written += len(utterance.waveform)
            if budget is not None and written >= budget:
                break
    if not kept:
        raise DataError(
            f"no training utterance of {corpus.speech} has codes in {corpus.tokens}; "
            "were the tokens made from this corpus?"
        )
    return SpeechBank(kept, np.memmap(path, dtype="<i2", mode="r"))


def first_heldout(corpus: Corpus, store: ArtifactStore, num_utterances: int) -> list[Utterance]:
    """The first held-out utterances."""
    return list(islice(corpus.utterances(store, "heldout"), num_utterances))
