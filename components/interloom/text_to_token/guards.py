"""When a synthesised span is refused."""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from interloom.config.text_to_token import SynthesisConfig
from interloom.text.normalise import normalise
from interloom.text.speakable import has_letter, speakable, symbol_share
from interloom.text.words import word_equivalents

_MAX_SYMBOLS = 0.05  # of a document's visible characters (section 9, row 8, of the method)
_PATIENCE = 1.25  # decoding goes on so far beyond the longest, to tell too long from endless


class Refusal(StrEnum):
    """Why a span was not spoken."""

    TEXT_TOO_LONG = "text too long"
    UNPRONOUNCEABLE = "unpronounceable"
    LOOP = "loop"
    NO_END = "no end"
    TOO_LONG = "too long"
    TOO_SHORT = "too short"
    MISREAD = "misread"


def refuse_text(text: str, config: SynthesisConfig) -> Refusal | None:
    """Why ``text`` is not even tried.

    Its words cannot be said within ``max_tokens``, it has nothing that a voice can say, or many
    symbols, as code has.
    """
    if not _fits(word_equivalents(text), config):
        return Refusal.TEXT_TOO_LONG
    if not has_letter(text) or symbol_share(text) > _MAX_SYMBOLS:
        return Refusal.UNPRONOUNCEABLE
    if not _fits(spoken_words(text), config):  # a number may be said in many words
        return Refusal.TEXT_TOO_LONG
    return None


def _fits(words: float, config: SynthesisConfig) -> bool:
    """Whether so many words can be said at all; each takes a code at least."""
    pace = max(1.0, config.min_tokens_per_word)
    return pace * words - config.slack_tokens <= config.max_tokens


@lru_cache(maxsize=1024)
def spoken_words(text: str) -> float:
    """How many words ``text`` takes the time of when it is read out."""
    return word_equivalents(speakable(text))


def shortest(text: str, config: SynthesisConfig) -> float:
    """The fewest codes that ``text`` may take, as it is said."""
    return max(1.0, config.min_tokens_per_word * spoken_words(text) - config.slack_tokens)


def longest(text: str, config: SynthesisConfig) -> int:
    """The most codes that ``text`` may take, as it is said."""
    limit = config.max_tokens_per_word * spoken_words(text) + config.slack_tokens
    return min(config.max_tokens, int(limit))


def patience(text: str, config: SynthesisConfig) -> int:
    """The codes after which decoding is given up."""
    return min(config.max_tokens, int(longest(text, config) * _PATIENCE))


def refuse_codes(
    text: str, codes: NDArray[np.int32], *, ended: bool, config: SynthesisConfig
) -> Refusal | None:
    """The first guard that ``codes`` breaks, or None."""
    if has_loop(codes, run=config.loop_tokens, period=config.loop_period):
        return Refusal.LOOP
    if not ended:
        return Refusal.NO_END
    if len(codes) > longest(text, config):
        return Refusal.TOO_LONG
    if len(codes) < shortest(text, config):
        return Refusal.TOO_SHORT
    return None


def has_loop(codes: NDArray[np.int32], *, run: int, period: int) -> bool:
    """Whether ``run`` codes in a row repeat a cycle of at most ``period`` codes."""
    for lag in range(1, period + 1):
        same = np.concatenate([[False], codes[lag:] == codes[:-lag], [False]])
        edges = np.flatnonzero(~same)
        if len(same) > 2 and int(np.diff(edges).max()) - 1 + lag >= run:
            return True
    return False


def word_error_rates(texts: Sequence[str], heard: Sequence[str]) -> list[float]:
    """Word error rate of each text as it was read back; one without words counts as misread."""
    import jiwer

    pairs = [(normalise(text), normalise(other)) for text, other in zip(texts, heard, strict=True)]
    return [float(jiwer.wer(text, other)) if text else 1.0 for text, other in pairs]
