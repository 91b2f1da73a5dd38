"""How an utterance is cut and padded before the encoder sees it, from its samples alone.

Shapes: S audio samples at 16 kHz.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.config.speech_tokenizer import EncoderConfig

_SEARCHED = 5  # a cut is looked for in the last fifth of the longest piece


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an utterance that is encoded on its own.

    Attributes:
        start_token: Its first code within the utterance.
        num_tokens: Its codes.
        padded_tokens: The length of its bucket.
    """

    start_token: int
    num_tokens: int
    padded_tokens: int


def num_tokens(num_samples: int, config: EncoderConfig) -> int:
    """Codes of an utterance: those that cover its samples."""
    return -(-num_samples // config.samples_per_token)


def bucket(tokens: int, config: EncoderConfig) -> int:
    """The padded length of a piece: the next multiple of ``bucket_tokens``."""
    padded = -(-tokens // config.bucket_tokens) * config.bucket_tokens
    return min(padded, config.max_tokens)


def cut(waveform_S: NDArray[np.float32], config: EncoderConfig) -> list[Piece]:
    """Cut an utterance that is longer than the position table where it is quietest.

    Returns:
        The pieces, in order; one for all but long utterances, none for no samples.
    """
    total = num_tokens(len(waveform_S), config)
    pieces: list[Piece] = []
    start = 0
    while start < total:
        length = min(total - start, config.max_tokens)
        if start + length < total:
            length = _quietest(waveform_S, start, config)
        pieces.append(Piece(start, length, bucket(length, config)))
        start += length
    return pieces


def _quietest(waveform_S: NDArray[np.float32], start: int, config: EncoderConfig) -> int:
    """Length of the piece from ``start`` that ends at the quietest code near the limit."""
    stride = config.samples_per_token
    longest = config.max_tokens
    shortest = longest - max(1, longest // _SEARCHED)
    heard = waveform_S[(start + shortest) * stride : (start + longest) * stride]
    energy = np.square(heard.reshape(-1, stride), dtype=np.float64).mean(1)
    return shortest + int(energy.argmin()) + 1
