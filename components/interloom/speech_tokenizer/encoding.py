"""Codes of utterances: each utterance's are defined by itself alone.

Shapes: N utterances, F mel frames, M bins, S samples, C codes.

The canonical codes of an utterance are what the encoder gives for it alone, block by block, the
last block padded to its bucket, in fp32 on one thread. Utterances that are computed together differ
in the last bits, and so at near ties in codes. Therefore a code whose lead over the next one is
within what ``ROUNDING`` could change is computed again canonically.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interloom.audio.mel import LOOK_AHEAD_SAMPLES, Mel, Waveform, above_floor, log_power
from interloom.config.speech_tokenizer import (
    SAMPLES_PER_MEL_FRAME,
    SAMPLES_PER_STEM_FRAME,
    EncoderConfig,
)
from interloom.speech_tokenizer.carried import Carried, CarriedEncoder
from interloom.speech_tokenizer.encoder import Encoder, valid_positions
from interloom.speech_tokenizer.pieces import num_tokens, padded_length

Codes = NDArray[np.int32]

ROUNDING = 5e-6  # relative, of a vector: more than batches, shapes and threads change it


@dataclass(frozen=True, slots=True)
class Found:
    """The codes of one utterance, and how sure they are.

    Attributes:
        codes_C: Codes.
        leads_C: The smallest relative change of each vector that could give it another code;
            infinite where it is large.
    """

    codes_C: Codes
    leads_C: NDArray[np.float64]

    @property
    def is_doubtful(self) -> NDArray[np.bool_]:
        """Where rounding could change the code, (C,)."""
        return self.leads_C < ROUNDING


def mel_of(waveform_S: Waveform, config: EncoderConfig, num_codes: int) -> Mel:
    """Log-mels of a piece, (F, M), F being that of so many codes: its floor follows the steps."""
    per_code = config.frames_per_token
    step = config.step_frames * SAMPLES_PER_STEM_FRAME // SAMPLES_PER_MEL_FRAME
    frames = num_codes * per_code
    ears = _Ears(config.num_mel_bins)
    steps = [
        ears.hear(waveform_S, start, min(frames, start + step)) for start in range(0, frames, step)
    ]
    return np.concatenate([np.zeros((0, config.num_mel_bins), np.float32), *steps])


def encode_together(encoder: Encoder, mels_N: Sequence[Mel]) -> list[Found]:
    """The codes of pieces that are computed as rows of one batch; of one piece, its canonical ones.

    Args:
        encoder: In evaluation mode.
        mels_N: Of whole codes, as ``mel_of`` gives them.
    """
    config = encoder.config
    per_code = config.frames_per_token
    order = sorted(range(len(mels_N)), key=lambda row: -len(mels_N[row]))
    lengths = np.array([len(mels_N[row]) // per_code for row in order], np.int64)
    carried = CarriedEncoder(encoder)
    state = carried.start(len(order))
    parts: list[list[Found]] = [[] for _ in order]
    step = config.step_frames // config.pool_kernel
    for start in range(0, int(lengths.max(initial=0)), step):
        rows = int((lengths > start).sum())
        left = np.minimum(lengths[:rows] - start, step)
        padded = padded_length(int(left.max()), config, first=start)
        mel = np.zeros((rows, padded * per_code, config.num_mel_bins), np.float32)
        for row, count in enumerate(left.tolist()):
            part = slice(start * per_code, (start + count) * per_code)
            mel[row, : count * per_code] = mels_N[order[row]][part]
        vectors, state = carried.step(state.rows(rows), mel, left)
        for row, found in enumerate(_codes_of(encoder, vectors, left)):
            parts[row].append(found)
    found_N: list[Found] = [_joined(())] * len(order)
    for place, row in enumerate(order):
        found_N[row] = _joined(parts[place])
    return found_N


def encode_alike(encoder: Encoder, mels_N: Sequence[Mel]) -> tuple[list[Codes], int]:
    """The canonical codes of pieces, computed together where that cannot matter.

    Returns:
        Codes of each piece, and how many codes were computed again.
    """
    found_N = encode_together(encoder, mels_N)
    if len(mels_N) == 1:
        return [found_N[0].codes_C], 0
    codes, num_again = [], 0
    for mel, found in zip(mels_N, found_N, strict=True):
        doubtful = found.is_doubtful
        if doubtful.any():
            num_again += int(doubtful.sum())
            alone = _alone(encoder, mel, int(doubtful.nonzero()[0][-1]) + 1)
            found.codes_C[doubtful] = alone[np.flatnonzero(doubtful)]
        codes.append(found.codes_C)
    return codes, num_again


class StreamingEncoder:
    """The canonical codes of a recording while it comes in, in chunks of any size.

    A block's codes are given once its audio and 2.5 ms more are there; an encoder that is not
    causal gives those of a whole piece. Memory is bounded by a piece of 30 seconds.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._carried = CarriedEncoder(encoder)
        self._config = encoder.config
        self._audio_S = np.zeros(0, np.float32)
        self._begin(skipped=0)

    def push(self, waveform_S: Waveform) -> Codes:
        """Take in some samples; gives the codes that are now certain."""
        self._audio_S = np.concatenate([self._audio_S, waveform_S])
        return self._advance(is_end=False)

    def finish(self) -> Codes:
        """The codes of what is left: all together are ``ceil(S / samples_per_token)``."""
        return self._advance(is_end=True)

    def _begin(self, *, skipped: int) -> None:
        """Start a piece whose first codes were given before."""
        self._state: Carried = self._carried.start(1)
        self._ears = _Ears(self._config.num_mel_bins)
        self._num_codes = 0
        self._skipped = skipped

    def _advance(self, *, is_end: bool) -> Codes:
        """Take as many steps as there is audio for."""
        config = self._config
        given = [np.zeros(0, np.int32)]
        while True:
            step = min(
                config.step_frames // config.pool_kernel, config.max_tokens - self._num_codes
            )
            needed = (self._num_codes + step) * config.samples_per_token + LOOK_AHEAD_SAMPLES
            if len(self._audio_S) < needed:
                left = num_tokens(len(self._audio_S), config) - self._num_codes
                if not is_end or left <= 0:
                    return np.concatenate(given)
                step = min(step, left)
            given.append(self._step(step))
            if self._num_codes == config.max_tokens:
                context = config.context_frames // config.pool_kernel
                first = (config.max_tokens - context) * config.samples_per_token
                if len(self._audio_S) <= config.max_tokens * config.samples_per_token:
                    self._audio_S = self._audio_S[:0]  # it ends where the piece does
                    return np.concatenate(given)
                self._audio_S = self._audio_S[first:]
                self._begin(skipped=context)

    def _step(self, count: int) -> Codes:
        """The codes of one step, without those that were given before."""
        config = self._config
        per_code = config.frames_per_token
        start, stop = self._num_codes, self._num_codes + count
        heard = self._ears.hear(self._audio_S, start * per_code, stop * per_code)
        padded = padded_length(count, config, first=start)
        mel = np.zeros((1, padded * per_code, config.num_mel_bins), np.float32)
        mel[0, : len(heard)] = heard
        counts = np.array([count])
        vectors, self._state = self._carried.step(self._state, mel, counts)
        found = next(_codes_of(self._encoder, vectors, counts))
        self._num_codes = stop
        return found.codes_C[max(0, self._skipped - start) :]


class _Ears:
    """Log-mels in steps, above a floor that follows the loudest value so far."""

    def __init__(self, num_mel_bins: int) -> None:
        self._num_mel_bins = num_mel_bins
        self._loudest = np.float32(-np.inf)

    def hear(self, waveform_S: Waveform, first: int, stop: int) -> Mel:
        """The frames ``[first, stop)`` of a waveform that begins with the piece."""
        mel = log_power(waveform_S, num_mel_bins=self._num_mel_bins, first=first, stop=stop)
        self._loudest = above_floor(mel, self._loudest)
        return mel


def _alone(encoder: Encoder, mel_FM: Mel, needed: int) -> Codes:
    """The first canonical codes of a piece: whole steps, until there are as many as needed."""
    config = encoder.config
    step = config.step_frames // config.pool_kernel
    per_code = config.frames_per_token
    kept = mel_FM[: -(-needed // step) * step * per_code]
    return encode_together(encoder, [kept])[0].codes_C


def _codes_of(encoder: Encoder, vectors_BCD: Tensor, counts: NDArray[np.int64]) -> Iterator[Found]:
    """The codes of each row's vectors that are not padding."""
    valid = valid_positions(torch.from_numpy(counts), vectors_BCD.shape[1])
    vectors = vectors_BCD[valid.to(vectors_BCD.device)].float()
    search = encoder.codebook.search
    change = 2 * search.radius * vectors.norm(dim=1).double()
    nearest = search.nearest(vectors, within_N=2 * ROUNDING * change)
    codes = nearest.codes_N.cpu().numpy().astype(np.int32)
    leads = (nearest.gaps_N / change.clamp(min=1e-30)).cpu().numpy()
    edges = np.cumsum(counts)[:-1]
    for row_codes, row_leads in zip(np.split(codes, edges), np.split(leads, edges), strict=True):
        yield Found(row_codes, row_leads)


def _joined(parts: Sequence[Found]) -> Found:
    """The codes of consecutive steps."""
    return Found(
        np.concatenate([np.zeros(0, np.int32), *(part.codes_C for part in parts)]),
        np.concatenate([np.zeros(0), *(part.leads_C for part in parts)]),
    )
