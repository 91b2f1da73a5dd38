"""When a synthesised span is refused."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from interloom.config.text_to_token import SynthesisConfig
from interloom.text.normalise import normalise
from interloom.text.speakable import has_letter, symbol_share
from interloom.text.words import word_equivalents

_MAX_SYMBOLS = 0.05  # of a document's visible characters (section 9, row 8, of the method)


class Refusal(StrEnum):
    """Why a span was not spoken."""

    UNPRONOUNCEABLE = "unpronounceable"
    TOO_LONG_TEXT = "text too long"
    LOOP = "loop"
    NO_END = "no end"
    TOO_SHORT = "too short"
    MISREAD = "misread"


def refuse_text(text: str) -> bool:
    """Whether no voice can say ``text``: it has no letter, or many symbols such as code has."""
    return not has_letter(text) or symbol_share(text) > _MAX_SYMBOLS


def longest(text: str, config: SynthesisConfig) -> int:
    """The most codes that ``text`` may take; synthesis that has not ended by then is refused."""
    limit = config.max_tokens_per_word * word_equivalents(text) + config.slack_tokens
    return min(config.max_tokens, int(limit))


def refuse_codes(
    text: str, codes: NDArray[np.int32], *, ended: bool, config: SynthesisConfig
) -> Refusal | None:
    """The first guard that ``codes`` breaks, or None."""
    if has_loop(codes, run=config.loop_tokens, period=config.loop_period):
        return Refusal.LOOP
    if not ended:
        return Refusal.NO_END
    least = config.min_tokens_per_word * word_equivalents(text) - config.slack_tokens
    if len(codes) < max(1.0, least):
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
    """Word error rate of each text as it was read back."""
    import jiwer

    return [
        float(jiwer.wer(normalise(text), normalise(other)))
        for text, other in zip(texts, heard, strict=True)
    ]
