"""Log-mels and labels of a corpus, computed once and kept beside the checkpoints.

Shapes: N utterances, F mel frames, M bins, L labels. The log-mels lie in a memory-mapped file of
16-bit floats (2 bytes a bin, 10 ms a frame), so that memory does not grow with the corpus.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import read_audio
from interloom.audio.mel import Mel
from interloom.config.speech_tokenizer import SAMPLES_PER_MEL_FRAME, EncoderConfig
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.tables import Split, read_table
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore
from interloom.speech_tokenizer.encoding import mel_of
from interloom.speech_tokenizer.pieces import num_tokens
from interloom.text.bpe import TextTokenizer

TABLE = "utterances"

_LOUD = 0.75  # of Whisper's log-mel: 30 dB


@dataclass(frozen=True, slots=True)
class Passage:
    """Log-mel of shape (F, M) and the labels of what is said in it.

    Attributes:
        frames_L2: First frame of each label and the one after its last; both -1 where unknown.
    """

    mel_FM: NDArray[np.float16]
    labels_L: NDArray[np.int32]
    frames_L2: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Features:
    """The utterances of one split.

    Attributes:
        mel_FM: All log-mels, one after the other; float16.
        first_frame_N: Where each begins; each is a whole number of codes long.
        num_codes_N: Codes of each.
        is_pseudo_N: Whether a recogniser wrote the transcript.
        labels_L: All labels.
        frames_L2: Where each label is said, from its utterance's first frame; -1 where unknown.
        first_label_N: Where each one's begin; one more at the end.
        cut_frame_C: Where an utterance may be cut: its first frame, the middle of each gap between
            words, its end; counted from its first frame.
        cut_label_C: How many of its labels stand before each cut.
        first_cut_N: Where each one's cuts begin; one more at the end.
        max_frames: Mel frames that the position table reaches; none is longer.
    """

    mel_FM: NDArray[np.float16]
    first_frame_N: NDArray[np.int64]
    num_codes_N: NDArray[np.int64]
    is_pseudo_N: NDArray[np.bool_]
    labels_L: NDArray[np.int32]
    frames_L2: NDArray[np.int32]
    first_label_N: NDArray[np.int64]
    cut_frame_C: NDArray[np.int64]
    cut_label_C: NDArray[np.int64]
    first_cut_N: NDArray[np.int64]
    max_frames: int

    def __len__(self) -> int:
        return len(self.num_codes_N)

    def whole(self, row: int) -> Passage:
        """One utterance."""
        return self.words(row, 0, self.num_words(row))

    def num_words(self, row: int) -> int:
        """Words that can be taken out of one utterance; 1 if it is not known where they are."""
        return int(self.first_cut_N[row + 1] - self.first_cut_N[row]) - 1

    def words(self, row: int, start: int, stop: int) -> Passage:
        """Words ``[start, stop)`` of one utterance."""
        cuts = slice(self.first_cut_N[row], self.first_cut_N[row + 1])
        frames, labels = self.cut_frame_C[cuts], self.cut_label_C[cuts]
        frame, label = self.first_frame_N[row], self.first_label_N[row]
        taken = slice(label + labels[start], label + labels[stop])
        places = self.frames_L2[taken]
        return Passage(
            self.mel_FM[frame + frames[start] : frame + frames[stop]],
            self.labels_L[taken],
            np.where(places < 0, -1, places - frames[start]).astype(np.int32),
        )


@dataclass(frozen=True, slots=True)
class Corpus:
    """Which utterances to take, and how to see them."""

    speech: ArtifactRef
    split: Split
    encoder: EncoderConfig
    text_tokenizer: TextTokenizer


def read_features(
    corpus: Corpus, folder: Path, *, store: ArtifactStore, progress: Progress
) -> Features:
    """Compute the features into ``folder``, or take those that an earlier attempt left whole.

    Utterances longer than the position table are left out of training.

    Raises:
        DataError: The split has no utterance to train on.
    """
    data, index = folder / f"{corpus.split}.mel", folder / f"{corpus.split}.json"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _compute(corpus, data, index, store=store, progress=progress)
    body = json.loads(index.read_text())
    if not body["num_codes"]:
        raise DataError(
            f"{corpus.speech} has no transcribed {corpus.split} utterance of at most "
            f"{corpus.encoder.max_tokens} codes; the tokenizer needs some"
        )
    codes = np.array(body["num_codes"], np.int64)
    frames = codes * corpus.encoder.frames_per_token
    return Features(
        np.memmap(data, np.float16, "r").reshape(-1, corpus.encoder.num_mel_bins),
        np.cumsum(frames) - frames,
        codes,
        np.array(body["is_pseudo"], np.bool_),
        np.array(body["labels"], np.int32),
        np.array(body["frames"], np.int32).reshape(-1, 2),
        np.array(body["first_label"], np.int64),
        np.array(body["cut_frame"], np.int64),
        np.array(body["cut_label"], np.int64),
        np.array(body["first_cut"], np.int64),
        corpus.encoder.max_tokens * corpus.encoder.frames_per_token,
    )


def _compute(
    corpus: Corpus, data: Path, index: Path, *, store: ArtifactStore, progress: Progress
) -> None:
    """Write the data, then the index; the index is there only when the data is whole."""
    table: dict[str, list[int]] = {"num_codes": [], "labels": [], "cut_frame": [], "cut_label": []}
    table |= {"frames": [], "first_label": [0], "first_cut": [0], "is_pseudo": []}
    partial = data.with_name(f".{data.name}.{uuid4().hex}")  # several ranks may compute at once
    with partial.open("wb") as file:
        for count, row in enumerate(_transcribed(corpus, store)):
            waveform = read_audio(row["audio"])
            length = num_tokens(len(waveform), corpus.encoder)
            if length > corpus.encoder.max_tokens:
                continue
            mel = mel_of(waveform, corpus.encoder, length)
            file.write(mel.astype(np.float16).tobytes())
            table["num_codes"].append(length)
            table["is_pseudo"].append(int(bool(row.get("labelled_by"))))
            _add_words(table, row, mel, corpus.text_tokenizer)
            if count % 100 == 0:
                progress.update(count, None, "log-mels")
    partial.replace(data)
    partial.write_text(json.dumps(table))
    partial.replace(index)


def _add_words(
    table: dict[str, list[int]], row: Mapping[str, Any], mel_FM: Mel, tokenizer: TextTokenizer
) -> None:
    """The labels of an utterance and where it may be cut."""
    frames = len(mel_FM)
    written = row["text"].split()
    spans = [
        (word["start"] // SAMPLES_PER_MEL_FRAME, word["stop"] // SAMPLES_PER_MEL_FRAME)
        for word in row["words"] or ()
    ]
    if len(written) == 1 and not spans:
        spans = [_loud(mel_FM)]
    cuts = [0, *((stop + start) // 2 for (_, stop), (start, _) in pairwise(spans)), frames]
    if len(spans) != len(written) or cuts != sorted(cuts):
        written, spans, cuts = [" ".join(written)], [(-1, -1)], [0, frames]
    labels = [labels_of(tokenizer, word) for word in written]
    for one, (start, stop) in zip(labels, spans, strict=True):
        table["labels"] += one
        edges = [start + (stop - start) * place // len(one) for place in range(len(one) + 1)]
        table["frames"] += [edge for pair in pairwise(edges) for edge in pair]
    table["first_label"].append(len(table["labels"]))
    table["cut_frame"] += cuts
    table["cut_label"] += [0, *accumulate(len(one) for one in labels)]
    table["first_cut"].append(len(table["cut_frame"]))


def _loud(mel_FM: Mel) -> tuple[int, int]:
    """From the first frame within 30 dB of the loudest to the last: where a single word is said."""
    level_F = mel_FM.max(axis=1)
    loud = np.flatnonzero(level_F >= level_F.max() - _LOUD)
    return int(loud[0]), int(loud[-1]) + 1


def labels_of(tokenizer: TextTokenizer, text: str) -> list[int]:
    """The labels of words as they stand within a text: each word with the space before it.

    So a word has one spelling, wherever an utterance begins.
    """
    return tokenizer.encode(f" {text}")


def _transcribed(corpus: Corpus, store: ArtifactStore) -> Iterator[Mapping[str, Any]]:
    """The rows with a text."""
    columns = ["id", "text", "audio", "words"]
    if "labelled_by" in store.manifest(corpus.speech).facts:
        columns.append("labelled_by")
    for row in read_table(store, corpus.speech, TABLE, split=corpus.split, columns=columns):
        if row["text"]:
            yield row
