import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.evaluation.intervals import bootstrap_ratio, wilson
from interloom.ports.catalog import Metric


@pytest.mark.parametrize(
    ("successes", "items", "low", "high"),
    [
        # Newcombe (1998), "Two-sided confidence intervals for the single proportion", method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(
    successes: int, items: int, low: float, high: float
) -> None:
    estimate = wilson(successes, items, 0.95)

    assert estimate.value == successes / items
    assert round(estimate.low, 4) == low
    assert round(estimate.high, 4) == high


def test_nothing_measured_says_nothing() -> None:
    nothing = wilson(0, 0, 0.95)

    assert nothing.to_dict() == {"n": 0}
    assert nothing.to_metrics("chat/right") == (Metric("chat/right/n", 0.0),)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_bounds_solve_the_score_equation(counts: tuple[int, int]) -> None:
    successes, items = counts
    estimate = wilson(successes, items, 0.95)

    for bound in (estimate.low, estimate.high):
        if 0 < bound < 1:
            score = abs(estimate.value - bound) / math.sqrt(bound * (1 - bound) / items)
            assert score == pytest.approx(1.959964, rel=1e-3, abs=1e-6)


def test_the_bootstrap_holds_the_ratio_of_sums_and_narrows_with_more_items() -> None:
    rng = np.random.default_rng(3)
    edits, words = rng.poisson(2.0, 400).tolist(), rng.integers(8, 12, 400).tolist()

    few = bootstrap_ratio(edits[:25], words[:25], confidence=0.95, num_resamples=1000, seed=1)
    many = bootstrap_ratio(edits, words, confidence=0.95, num_resamples=1000, seed=1)

    assert few.value == sum(edits[:25]) / sum(words[:25])
    assert few.low < few.value < few.high
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_the_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(5).normal(10.0, 2.0, 500)
    estimate = bootstrap_ratio(
        values.tolist(), [1.0] * 500, confidence=0.95, num_resamples=4000, seed=2
    )

    half = 1.96 * values.std() / math.sqrt(500)
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.03)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.03)


def test_the_same_seed_gives_the_same_interval() -> None:
    ratios = [
        bootstrap_ratio([1, 0, 3], [4, 5, 6], confidence=0.9, num_resamples=50, seed=9)
        for _ in range(2)
    ]

    assert ratios[0] == ratios[1]


def test_an_estimate_becomes_four_metrics() -> None:
    first = wilson(3, 4, 0.95).to_metrics("cloze/S->S/story")[0]

    assert first == Metric("cloze/S->S/story", 0.75)
