"""Batches of utterances of like length; batch ``index`` is a pure function of the index.

Shapes: B rows, F mel frames, M bins, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.config.speech_tokenizer import AugmentConfig
from interloom.speech_tokenizer.features import Features, Passage

SILENT, UNKNOWN = -1, -100
_DYNAMICS = 2.0  # from the loudest value of Whisper's log-mel to its floor
_NEPERS = np.float32(4 * np.log(10))  # Whisper's log-mel to the logarithm of power
_ROWS, _ORDER, _AUGMENT, _SPLICE = 1, 2, 3, 4  # what a random stream is for


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of one micro-batch, padded with zeros.

    Attributes:
        label_at_BC: The label that is said at the middle of each code, ``SILENT`` for none,
            ``UNKNOWN`` where the corpus does not say.
    """

    mel_BFM: NDArray[np.float32]
    num_codes_B: NDArray[np.int64]
    labels_BL: NDArray[np.int64]
    num_labels_B: NDArray[np.int64]
    label_at_BC: NDArray[np.int64]


class BatchPlan:
    """Which utterances stand in which batch of which epoch.

    Utterances are sorted into buckets of equal padded length. Each epoch permutes the utterances of
    each bucket and the order of the batches; the batches' sizes never change, so that every epoch
    has as many.
    """

    def __init__(
        self, num_codes_N: NDArray[np.int64], *, bucket: int, max_codes: int, seed: int
    ) -> None:
        padded_N = -(-num_codes_N // bucket) * bucket
        self._order_N = np.argsort(padded_N, kind="stable")
        self._seed = seed
        sorted_N = padded_N[self._order_N]
        starts = [0]
        for position, length in enumerate(sorted_N.tolist()):
            if position > starts[-1] and (position + 1 - starts[-1]) * length > max_codes:
                starts.append(position)
        self._edges = [*starts, len(sorted_N)]
        changes = np.flatnonzero(np.diff(sorted_N)) + 1
        self._groups = [0, *changes.tolist(), len(sorted_N)]

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return len(self._edges) - 1

    def rows(self, index: int) -> NDArray[np.int64]:
        """The utterances of batch ``index``, counted over all epochs."""
        epoch, position = divmod(index, self.num_batches)
        batches = stream(self._seed, epoch, _ORDER).permutation(self.num_batches)
        start, stop = self._edges[batches[position]], self._edges[batches[position] + 1]
        return self._shuffled(epoch)[start:stop]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        """All utterances, in order of bucket, each bucket permuted."""
        rng = stream(self._seed, epoch, _ROWS)
        order = self._order_N.copy()
        for start, stop in zip(self._groups, self._groups[1:], strict=False):
            rng.shuffle(order[start:stop])
        return order


def collate(passages: Sequence[Passage], *, frames_per_token: int) -> Batch:
    """The arrays of some passages, as long as the longest."""
    codes = np.array([-(-len(one.mel_FM) // frames_per_token) for one in passages], np.int64)
    num_labels = np.array([len(one.labels_L) for one in passages], np.int64)
    shape = (len(passages), int(codes.max()) * frames_per_token, passages[0].mel_FM.shape[1])
    mel = np.zeros(shape, np.float32)
    labels = np.zeros((len(passages), max(1, int(num_labels.max()))), np.int64)
    for row, passage in enumerate(passages):
        mel[row, : len(passage.mel_FM)] = passage.mel_FM
        # The rest of the last code goes on as the passage ends.
        mel[row, len(passage.mel_FM) : codes[row] * frames_per_token] = passage.mel_FM[-1]
        labels[row, : num_labels[row]] = passage.labels_L
    label_at = np.full((len(passages), int(codes.max())), UNKNOWN, np.int64)
    for row, passage in enumerate(passages):
        label_at[row, : codes[row]] = _labels_at(passage, int(codes[row]), frames_per_token)
    return Batch(mel, codes, labels, num_labels, label_at)


def _labels_at(passage: Passage, num_codes: int, frames_per_token: int) -> NDArray[np.int64]:
    """The label at the middle of each code."""
    if len(passage.frames_L2) == 0 or passage.frames_L2.min() < 0:
        return np.full(num_codes, UNKNOWN, np.int64)
    middle_C = np.arange(num_codes) * frames_per_token + frames_per_token // 2
    # Labels are in order and disjoint.
    index_C = np.searchsorted(passage.frames_L2[:, 0], middle_C, side="right") - 1
    said_C = (index_C >= 0) & (middle_C < passage.frames_L2[index_C, 1])
    return np.where(said_C, passage.labels_L[index_C], SILENT).astype(np.int64)


def splice(features: Features, frames: int, max_words: int, rng: np.random.Generator) -> Passage:
    """Runs of words of drawn utterances, one after the other, as many as fit into ``frames``.

    At least one run is taken, whole utterances where words have no place.
    """
    mel: list[NDArray[np.float16]] = []
    labels: list[NDArray[np.int32]] = []
    places: list[NDArray[np.int32]] = []
    free = frames
    while True:
        row = int(rng.integers(len(features)))
        num_words = features.num_words(row)
        start = int(rng.integers(num_words))
        stop = min(num_words, start + 1 + int(rng.integers(max_words)))
        run = features.words(row, start, stop)
        if mel and len(run.mel_FM) > free:
            return Passage(np.concatenate(mel), np.concatenate(labels), np.concatenate(places))
        places.append(np.where(run.frames_L2 < 0, -1, run.frames_L2 + (frames - free)))
        mel.append(run.mel_FM)
        labels.append(run.labels_L)
        free -= len(run.mel_FM)


def passages_of(
    features: Features, rows: NDArray[np.int64], config: AugmentConfig, *, seed: int, index: int
) -> list[Passage]:
    """What batch ``index`` says: its utterances, or as much speech in short spliced passages."""
    rng = stream(seed, index, _SPLICE)
    whole = [features.whole(int(row)) for row in rows]
    if index >= config.spliced_first and rng.random() >= config.spliced:
        return whole
    total = len(whole) * max(len(one.mel_FM) for one in whole)
    return [
        splice(features, config.spliced_frames, config.spliced_words, rng)
        for _ in range(max(1, total // config.spliced_frames))
    ]


def augment(
    batch: Batch, config: AugmentConfig, *, seed: int, index: int, frames_per_token: int
) -> None:
    """Change a batch's log-mels in place; what is changed depends on ``(seed, index)`` alone."""
    rng = stream(seed, index, _AUGMENT)
    for mel_FM, codes in zip(batch.mel_BFM, batch.num_codes_B.tolist(), strict=True):
        _augment_row(mel_FM[: codes * frames_per_token], config, rng)


def _augment_row(
    mel_FM: NDArray[np.float32], config: AugmentConfig, rng: np.random.Generator
) -> None:
    """Smooth, add background, colour and shift, add noise, mask."""
    frames, bins = mel_FM.shape
    if rng.random() < config.smoothed:
        _smooth(mel_FM, time=bool(rng.random() < 0.5))
    if rng.random() < config.background:
        _add_background(mel_FM, rng)
    mel_FM += np.float32(config.gain * (2 * rng.random() - 1))
    mel_FM += config.colour * _curve(bins, rng)
    if config.noise:
        deviation = np.float32(config.noise * rng.random())
        mel_FM += deviation * rng.standard_normal(mel_FM.shape, dtype=np.float32)
    mean = mel_FM.mean()
    for _ in range(config.num_time_masks):
        length = int(rng.integers(0, min(config.time_mask_frames, frames) + 1))
        start = int(rng.integers(0, frames - length + 1))
        mel_FM[start : start + length] = mean
    for _ in range(config.num_bin_masks):
        length = int(rng.integers(0, min(config.bin_mask_bins, bins) + 1))
        start = int(rng.integers(0, bins - length + 1))
        mel_FM[:, start : start + length] = mean


def _add_background(mel_FM: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Add the power of steady noise, from what cannot be heard to 25 dB under the loudest."""
    frames, bins = mel_FM.shape
    level = mel_FM.max() - (_DYNAMICS - rng.random() * (_DYNAMICS - 0.6))
    noise = level + 0.2 * _curve(bins, rng)
    noise = noise + np.float32(0.08) * rng.standard_normal((frames, bins), dtype=np.float32)
    mel_FM[:] = np.logaddexp(mel_FM * _NEPERS, noise * _NEPERS) / _NEPERS


def _curve(bins: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random smooth curve over mel bins, mostly within [-1, 1]."""
    place = np.linspace(0, np.pi, bins)
    weights = rng.uniform(-1, 1, 3) / np.array([1, 2, 3])
    waves = np.cos(place[:, None] * np.array([1, 2, 3]))
    curve: NDArray[np.float32] = (waves @ weights).astype(np.float32)
    return curve


def _smooth(mel_FM: NDArray[np.float32], *, time: bool) -> None:
    """Blur over bins by (1, 2, 1) / 4, and over time too if asked."""
    mel_FM[:, 1:-1] = (mel_FM[:, :-2] + 2 * mel_FM[:, 1:-1] + mel_FM[:, 2:]) / 4
    if time:
        mel_FM[1:-1] = (mel_FM[:-2] + 2 * mel_FM[1:-1] + mel_FM[2:]) / 4


def stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    """The random numbers of one purpose at one index."""
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, 0, purpose]))
