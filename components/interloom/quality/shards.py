"""The suite of a shard's sums: what no row shows alone. R = rows, N = spans that are spoken."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interloom.config.interleaving import QualityLimits
from interloom.ports.gate import Expectation
from interloom.quality.flat import FlatRows

SUITE = "interleaved shards"
WHOLE_SUITE = "interleaved corpus"

Sums = dict[str, float]
Lengths = NDArray[np.float64]

_LEAST_EXPECTED = 8.0  # in a bin of the span lengths; rarer lengths share one
_FEWEST_SPANS = 30  # below it a median and a mean tell nothing
_SURE_WORDS = 100_000  # so many words must hold the asked share to half a point
_HALF_POINT = 0.005


@dataclass(frozen=True, slots=True)
class Natural:
    """What the corpora at hand have, for comparison.

    Attributes:
        codes_per_word: Of recorded speech; 0 if there is none.
    """

    codes_per_word: float


def shard_expectations(limits: QualityLimits) -> tuple[Expectation, ...]:
    """What must hold of the sums over a shard."""
    return (
        Expectation(
            "the share of chosen words is the policy's",
            "ratio_difference",
            -limits.ratio_tolerance,
            limits.ratio_tolerance,
        ),
        Expectation("most spans could be spoken", "refused_spans", maximum=limits.max_refused),
        Expectation("few rows are broken", "broken_rows", maximum=limits.max_broken),
        Expectation(
            "the speech share of tokens is as natural speech and the text have it",
            "share_difference",
            -limits.share_tolerance,
            limits.share_tolerance,
        ),
        Expectation(
            "spans are spoken at the pace of real speech", "pace", limits.min_pace, limits.max_pace
        ),
        Expectation(
            "the lengths of spans are Poisson", "length_deviation", maximum=limits.max_deviation
        ),
        Expectation(
            "spans are read back as what they say", "error_rate", maximum=limits.max_error_rate
        ),
    )


def whole_expectations(limits: QualityLimits) -> tuple[Expectation, ...]:
    """What must hold of all shards together."""
    return (
        Expectation("no document is there twice", "twice", maximum=0),
        Expectation(
            "the share of chosen words is exact over many words",
            "total_ratio_difference",
            -_HALF_POINT,
            _HALF_POINT,
        ),
        Expectation("little is left out", "left_out", maximum=limits.max_quarantined),
        Expectation("something is left in", "rows", minimum=1),
    )


def shard_sums(
    table: pa.Table,
    expected_words: Sequence[float],
    *,
    natural: Natural,
    ids_per_word: float,
    error_rates: Sequence[float],
) -> Sums:
    """The sums that expectations are about, but for ``broken_rows`` and ``length_deviation``.

    Rounding a document's share to whole words may add up: within two standard deviations of that
    the difference counts as none.

    Args:
        table: All rows of the shard.
        expected_words: Words that the policy chooses of each row's document, on average.
        natural: Real speech to compare with.
        ids_per_word: Text ids of a word of these documents.
        error_rates: Of spans that were read back.
    """
    rows = FlatRows(table)
    spans, spoken = rows.all_spans, rows.spoken
    words = int(np.asarray(table["num_words"], np.int64).sum())
    chosen = int((spans["word_stop"] - spans["word_start"]).sum())
    words_N = spoken["word_stop"] - spoken["word_start"]
    return {
        "chosen_words": float(chosen),
        "expected_words": float(sum(expected_words)),
        "words": float(words),
        "ratio_difference": _beyond(chosen, sum(expected_words), table.num_rows) / max(1, words),
        "refused_spans": (len(spans) - len(spoken)) / max(1, len(spans)),
        "share_difference": _share_difference(
            rows, words, int(words_N.sum()), natural, ids_per_word
        ),
        "pace": _pace(spoken["num_codes"], words_N, natural),
        "error_rate": float(np.mean(np.minimum(error_rates, 1.0))) if len(error_rates) else 0.0,
    }


def _beyond(chosen: float, expected: float, num_rows: int) -> float:
    """The difference, less what rounding may be."""
    difference = chosen - expected
    return math.copysign(max(0.0, abs(difference) - math.sqrt(num_rows)), difference)


def _share_difference(
    rows: FlatRows, words: int, spoken_words: int, natural: Natural, ids_per_word: float
) -> float:
    """The speech share of tokens, less the one that the words and natural speech make."""
    codes = int(rows.spoken["num_codes"].sum())
    text = len(rows.ids) - codes - 2 * len(rows.spoken)
    if not natural.codes_per_word or len(rows.spoken) < _FEWEST_SPANS:
        return 0.0
    speech = spoken_words * natural.codes_per_word
    expected = speech / (speech + (words - spoken_words) * ids_per_word)
    return codes / max(1, codes + text) - expected


def _pace(codes_N: NDArray[np.int64], words_N: NDArray[np.int64], natural: Natural) -> float:
    """Codes a word at the median, in those of real speech; 1 if there is too little to tell."""
    if not natural.codes_per_word or len(codes_N) < _FEWEST_SPANS:
        return 1.0
    return float(np.median(codes_N / np.maximum(1, words_N))) / natural.codes_per_word


def length_deviation(seen: Lengths, expected: Lengths) -> float:
    """How far counts of span lengths are from those expected, in standard deviations.

    Pearson's chi-square over lengths that are expected often enough, the others in one bin at each
    end, brought to a normal deviate by Wilson and Hilferty's cube root; 0 with fewer than 2 bins.

    Args:
        seen: Uncut spans of each length.
        expected: Of each length, on average.
    """
    bins = _bins(expected)
    if len(bins) < 2:
        return 0.0
    seen_B = np.array([seen[start:stop].sum() for start, stop in bins])
    expected_B = np.array([expected[start:stop].sum() for start, stop in bins])
    freedom = len(bins)
    chi_square = float((np.square(seen_B - expected_B) / expected_B).sum())
    spread = 2 / (9 * freedom)
    return float(((chi_square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def _bins(expected: Lengths) -> list[tuple[int, int]]:
    """Runs of lengths that are expected often enough; the last takes what is left."""
    bins, start = list[tuple[int, int]](), 0
    for stop in range(1, len(expected) + 1):
        if expected[start:stop].sum() >= _LEAST_EXPECTED:
            bins.append((start, stop))
            start = stop
    if bins and start < len(expected):
        bins[-1] = (bins[-1][0], len(expected))
    return bins


def whole_sums(shards: Sequence[Sums], *, num_rows: int, left_out: int, twice: int) -> Sums:
    """The sums over the whole corpus.

    Args:
        shards: Sums of each shard, quarantined or not.
        num_rows: Rows that are kept.
        left_out: Rows that are not.
        twice: Rows whose document was there before.
    """
    words = sum(one["words"] for one in shards)
    difference = sum(one["chosen_words"] - one["expected_words"] for one in shards)
    return {
        "rows": float(num_rows),
        "left_out": left_out / max(1, num_rows + left_out),
        "twice": float(twice),
        "total_ratio_difference": difference / words if words >= _SURE_WORDS else 0.0,
    }
