"""Which words of a document are spoken: P1's span corruption (section 8.4 of the method).

Spans are drawn until they hold the asked share of the words, the last one cut to fit; then they are
laid out, every arrangement in which none touches another being equally likely. That is the same
distribution as drawing places and rejecting those that touch, but it takes O(n) at any share.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class SpanRule:
    """How spans are drawn.

    Attributes:
        ratio: eta, the share of a document's words that is spoken.
        mean_words: lambda, of the Poisson length of a span; a length of 0 is drawn again.
        max_words: No span is drawn longer.
    """

    ratio: float
    mean_words: float
    max_words: int

    @property
    def min_document_words(self) -> int:
        """Shorter documents are left as they are: their share would not be one whole word."""
        return math.ceil(1 / self.ratio)


@dataclass(frozen=True, slots=True)
class WordSpan:
    """Words ``[start, stop)`` of a document; ``cut`` if it was drawn longer than it is."""

    start: int
    stop: int
    cut: bool


def document_stream(seed: int, document_id: str) -> np.random.Generator:
    """The random numbers of one document, whatever stands before it."""
    digest = hashlib.sha256(f"interleave/{seed}/{document_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def choose_spans(num_words: int, rule: SpanRule, rng: np.random.Generator) -> tuple[WordSpan, ...]:
    """Spans in order, with at least one word between two; none if the document is too short.

    The spans hold ``floor(ratio * num_words + u)`` words with one uniform ``u``: the share is right
    on average for documents of any length.
    """
    if num_words < rule.min_document_words:
        return ()
    target = math.floor(rule.ratio * num_words + rng.random())
    lengths, is_cut = _draw_lengths(target, rule, rng)
    num_slots = num_words - target + 1  # places between and around the words that stay text
    while len(lengths) > num_slots:
        lengths[-2:] = [lengths[-2] + lengths[-1]]
    order = rng.permutation(len(lengths))
    places = np.sort(rng.choice(num_slots, size=len(lengths), replace=False))
    laid = np.array(lengths)[order]
    starts = places + np.cumsum(laid) - laid
    last = len(lengths) - 1
    return tuple(
        WordSpan(int(start), int(start + length), cut=is_cut and int(drawn) == last)
        for start, length, drawn in zip(starts, laid, order, strict=True)
    )


def _draw_lengths(target: int, rule: SpanRule, rng: np.random.Generator) -> tuple[list[int], bool]:
    """Lengths that sum to ``target``, and whether the last one was cut."""
    lengths: list[int] = []
    left = target
    while left > 0:
        drawn = min(int(rng.poisson(rule.mean_words)), rule.max_words)
        if drawn:
            lengths.append(min(drawn, left))
            left -= drawn
    return lengths, left < 0
