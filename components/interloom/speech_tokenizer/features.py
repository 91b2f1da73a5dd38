"""Log-mels and labels of a corpus, computed once and kept beside the checkpoints.

Shapes: N utterances, F mel frames, M bins, L labels. The log-mels lie in a memory-mapped file of
16-bit floats (2 bytes a bin, 10 ms a frame), so that memory does not grow with the corpus.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import read_audio
from interloom.audio.mel import log_mel
from interloom.config.speech_tokenizer import SAMPLES_PER_MEL_FRAME, EncoderConfig
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.tables import Split, read_table
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore
from interloom.speech_tokenizer.pieces import num_tokens
from interloom.text.bpe import TextTokenizer

TABLE = "utterances"


@dataclass(frozen=True, slots=True)
class Features:
    """The utterances of one split.

    Attributes:
        mel_FM: All log-mels, one after the other; float16.
        first_frame_N: Where each begins; each is a whole number of codes long.
        num_codes_N: Codes of each.
        labels_L: All labels.
        first_label_N: Where each one's begin; one more at the end.
    """

    mel_FM: NDArray[np.float16]
    first_frame_N: NDArray[np.int64]
    num_codes_N: NDArray[np.int64]
    labels_L: NDArray[np.int32]
    first_label_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.num_codes_N)

    def mel(self, row: int, frames: int) -> NDArray[np.float16]:
        """The first ``frames`` frames of one utterance."""
        start = self.first_frame_N[row]
        return self.mel_FM[start : start + frames]

    def labels(self, row: int) -> NDArray[np.int32]:
        """The labels of one utterance."""
        return self.labels_L[self.first_label_N[row] : self.first_label_N[row + 1]]


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
    frames = codes * _frames_per_token(corpus.encoder)
    return Features(
        np.memmap(data, np.float16, "r").reshape(-1, corpus.encoder.num_mel_bins),
        np.cumsum(frames) - frames,
        codes,
        np.array(body["labels"], np.int32),
        np.array(body["first_label"], np.int64),
    )


def _compute(
    corpus: Corpus, data: Path, index: Path, *, store: ArtifactStore, progress: Progress
) -> None:
    """Write the data, then the index; the index is there only when the data is whole."""
    codes: list[int] = []
    labels: list[int] = []
    first_label = [0]
    with data.with_suffix(".partial").open("wb") as file:
        for count, row in enumerate(_transcribed(corpus, store)):
            waveform = read_audio(row["audio"])
            length = num_tokens(len(waveform), corpus.encoder)
            if length > corpus.encoder.max_tokens:
                continue
            frames = length * _frames_per_token(corpus.encoder)
            mel = log_mel(waveform, num_mel_bins=corpus.encoder.num_mel_bins, num_frames=frames)
            file.write(mel.astype(np.float16).tobytes())
            codes.append(length)
            labels += corpus.text_tokenizer.encode(row["text"])
            first_label.append(len(labels))
            if count % 100 == 0:
                progress.update(count, None, "log-mels")
    data.with_suffix(".partial").replace(data)
    body = {"num_codes": codes, "labels": labels, "first_label": first_label}
    partial = index.with_suffix(".partial-index")
    partial.write_text(json.dumps(body))
    partial.replace(index)


def _transcribed(corpus: Corpus, store: ArtifactStore) -> Iterator[Mapping[str, Any]]:
    """The rows with a text."""
    columns = ["id", "text", "audio"]
    for row in read_table(store, corpus.speech, TABLE, split=corpus.split, columns=columns):
        if row["text"]:
            yield row


def _frames_per_token(config: EncoderConfig) -> int:
    """Mel frames of one code: 8 at 12.5 Hz."""
    return config.samples_per_token // SAMPLES_PER_MEL_FRAME
