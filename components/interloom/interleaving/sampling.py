"""Which words of a document are spoken: P1's span corruption (section 8.4 of the method).

Spans are drawn until they hold the asked share of the words, the last one cut to fit; then they are
laid out, every arrangement in which none touches another being equally likely. That is the same
distribution as drawing places and rejecting those that touch, but it takes O(n) at any share.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


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
class WordSpans:
    """Words ``[start, stop)`` of a document, in order, with at least one word between two.

    Attributes:
        start: First word of each span, shape (N,).
        stop: After the last.
        is_cut: Whether the span is shorter than it was drawn, or than its rule has it.
    """

    start: Counts
    stop: Counts
    is_cut: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def num_words(self) -> int:
        """Words in all spans together."""
        return int((self.stop - self.start).sum())

    @classmethod
    def of(cls, spans: Sequence[tuple[int, int, bool]]) -> "WordSpans":
        """From start, stop and whether it is cut, of each."""
        columns = np.array(spans, np.int64).reshape(-1, 3).T
        return cls(columns[0], columns[1], columns[2].astype(bool))


NO_SPANS = WordSpans.of(())


def document_stream(seed: int, document_id: str) -> np.random.Generator:
    """The random numbers of one document, whatever stands before it."""
    digest = hashlib.sha256(f"interleave/{seed}/{document_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def choose_spans(num_words: int, rule: SpanRule, rng: np.random.Generator) -> WordSpans:
    """Spans in order, with at least one word between two; none if the document is too short.

    The spans hold ``floor(ratio * num_words + u)`` words with one uniform ``u``: the share is right
    on average for documents of any length.
    """
    if num_words < rule.min_document_words:
        return NO_SPANS
    target = math.floor(rule.ratio * num_words + rng.random())
    lengths, is_cut = _draw_lengths(target, rule, rng)
    num_slots = num_words - target + 1  # places between and around the words that stay text
    if len(lengths) > num_slots:
        lengths[num_slots - 1 :] = [sum(lengths[num_slots - 1 :])]
    order = rng.permutation(len(lengths))
    places = np.sort(rng.choice(num_slots, size=len(lengths), replace=False))
    laid = np.array(lengths)[order]
    starts = places + np.cumsum(laid) - laid
    return WordSpans(starts, starts + laid, (order == len(lengths) - 1) & is_cut)


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


def expected_lengths(targets: Sequence[int], rule: SpanRule) -> NDArray[np.float64]:
    """How many uncut spans of each length documents with these targets have, on average.

    A span stays whole if it fits into what is left of its document's target, and what is left
    follows from the spans before it: a renewal process, so the expectation is exact.

    Returns:
        Shape (max_words + 1,): index k counts spans of k words.
    """
    chance_K = length_chances(rule)
    longest = max(targets, default=0)
    reached = np.zeros(longest + 1)  # chance that some span begins after so many words
    reached[0] = 1
    for words in range(1, longest + 1):
        most = min(words, rule.max_words)
        reached[words] = reached[words - most : words][::-1] @ chance_K[1 : most + 1]
    begun = np.cumsum(reached)
    how_often = np.bincount(np.asarray(targets, np.int64), minlength=longest + 1)
    expected = np.zeros(rule.max_words + 1)
    for length in range(1, min(rule.max_words, longest) + 1):
        expected[length] = chance_K[length] * float(
            how_often[length:] @ begun[: longest + 1 - length]
        )
    return expected


def length_chances(rule: SpanRule) -> NDArray[np.float64]:
    """The chance of each length that is drawn, (max_words + 1,): Poisson, capped, without 0."""
    length = np.arange(rule.max_words + 1)
    factorials = np.array([math.lgamma(one + 1) for one in length.tolist()])
    poisson = np.exp(length * math.log(rule.mean_words) - rule.mean_words - factorials)
    poisson[-1] += max(0.0, 1 - float(poisson.sum()))
    poisson[0] = 0
    chances: NDArray[np.float64] = poisson / poisson.sum()
    return chances
