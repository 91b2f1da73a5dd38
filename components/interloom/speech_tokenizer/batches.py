"""What is heard in a batch: utterances or spliced passages, changed, as arrays.

Shapes: B rows, F mel frames (100 Hz), T places of the CTC head, M bins, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.audio.mel import at_speed
from interloom.config.speech_tokenizer import AugmentConfig
from interloom.speech_tokenizer.features import Features, Passage
from interloom.speech_tokenizer.sampling import Drawn, stream

SILENT, UNKNOWN = -1, -100
_DYNAMICS = 2.0  # from the loudest value of Whisper's log-mel to its floor
_NEPERS = np.float32(4 * np.log(10))  # Whisper's log-mel to the logarithm of power
_AUGMENT, _SPLICE, _SPEED = 3, 4, 5  # what a random stream is for


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of one micro-batch, padded with zeros.

    Attributes:
        label_at_BT: The label that is said at the middle of each place, ``SILENT`` for none,
            ``UNKNOWN`` where the corpus does not say.
    """

    mel_BFM: NDArray[np.float32]
    num_codes_B: NDArray[np.int64]
    labels_BL: NDArray[np.int64]
    num_labels_B: NDArray[np.int64]
    label_at_BT: NDArray[np.int64]


def collate(passages: Sequence[Passage], *, frames_per_token: int, places: int = 1) -> Batch:
    """The arrays of some passages, as long as the longest.

    Args:
        passages: At least one.
        frames_per_token: Mel frames of a code.
        places: Of the CTC head, for each code.
    """
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
    label_at = np.full((len(passages), int(codes.max()) * places), UNKNOWN, np.int64)
    for row, passage in enumerate(passages):
        middle_T = np.arange(0.5, int(codes[row]) * places, dtype=np.float64)
        middle_T *= frames_per_token / places
        label_at[row, : len(middle_T)] = _labels_at(passage, middle_T)
    return Batch(mel, codes, labels, num_labels, label_at)


def _labels_at(passage: Passage, middle_T: NDArray[np.float64]) -> NDArray[np.int64]:
    """The label at some places, counted in frames."""
    if len(passage.frames_L2) == 0 or passage.frames_L2.min() < 0:
        return np.full(len(middle_T), UNKNOWN, np.int64)
    # Labels are in order and disjoint.
    index_T = np.searchsorted(passage.frames_L2[:, 0], middle_T, side="right") - 1
    said_T = (index_T >= 0) & (middle_T < passage.frames_L2[index_T, 1])
    return np.where(said_T, passage.labels_L[index_T], SILENT).astype(np.int64)


def _splice(
    features: Features, pool_P: NDArray[np.int64], config: AugmentConfig, rng: np.random.Generator
) -> Passage:
    """Runs of words of drawn utterances, one after the other, as many as fit.

    At least one run is taken, whole utterances where words have no place.
    """
    mel: list[NDArray[np.float16]] = []
    labels: list[NDArray[np.int32]] = []
    places: list[NDArray[np.int32]] = []
    frames = free = config.spliced_frames
    while True:
        row = int(pool_P[rng.integers(len(pool_P))])
        num_words = features.num_words(row)
        start = int(rng.integers(num_words))
        stop = min(num_words, start + 1 + int(rng.integers(config.spliced_words)))
        run = features.words(row, start, stop)
        if mel and len(run.mel_FM) > free:
            return Passage(np.concatenate(mel), np.concatenate(labels), np.concatenate(places))
        places.append(np.where(run.frames_L2 < 0, -1, run.frames_L2 + (frames - free)))
        mel.append(run.mel_FM)
        labels.append(run.labels_L)
        free -= len(run.mel_FM)


def passages_of(
    features: Features, drawn: Drawn, config: AugmentConfig, *, seed: int, index: int
) -> list[Passage]:
    """What batch ``index`` says: its utterances, or as much speech in short spliced passages.

    Some of them are played faster or slower, but none for longer than the position table reaches.
    """
    rng = stream(seed, index, _SPLICE)
    passages = [features.whole(int(row)) for row in drawn.rows]
    if index < config.spliced_first or rng.random() < config.spliced:
        total = len(passages) * max(len(one.mel_FM) for one in passages)
        count = max(1, total // config.spliced_frames)
        passages = [_splice(features, drawn.pool_P, config, rng) for _ in range(count)]
    if not config.sped:
        return passages
    speeds = stream(seed, index, _SPEED)
    return [_sped(one, config, features.max_frames, speeds) for one in passages]


def _sped(
    passage: Passage, config: AugmentConfig, max_frames: int, rng: np.random.Generator
) -> Passage:
    """A passage at a drawn speed and of a drawn vocal tract, or as it is."""
    is_sped, pace, tract = rng.random() < config.sped, rng.uniform(-1, 1), rng.uniform(-1, 1)
    speed = max((1 + config.speed) ** pace, len(passage.mel_FM) / max_frames)
    if not is_sped or len(passage.mel_FM) == 0:
        return passage
    mel = at_speed(passage.mel_FM.astype(np.float32), speed, tract=(1 + config.tract) ** tract)
    places = np.minimum(np.rint(passage.frames_L2 / speed), len(mel)).astype(np.int32)
    places = np.where(passage.frames_L2 < 0, -1, places)
    return Passage(mel.astype(np.float16), passage.labels_L, places)


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
