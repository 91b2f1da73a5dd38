"""Numbers with intervals: Wilson for shares, the bootstrap for ratios, Student for means."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from interloom.ports.catalog import Metric


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value, its interval and how many items it rests on.

    Without items there is no value to report, only their number.
    """

    value: float
    low: float
    high: float
    num_items: int

    def to_dict(self) -> dict[str, float | int]:
        """For ``report.json``."""
        if not self.num_items:
            return {"n": 0}
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.num_items}

    def to_metrics(self, name: str) -> tuple[Metric, ...]:
        """``NAME``, ``NAME/low``, ``NAME/high`` and ``NAME/n``."""
        if not self.num_items:
            return (Metric(f"{name}/n", 0.0),)
        return (
            Metric(name, self.value),
            Metric(f"{name}/low", self.low),
            Metric(f"{name}/high", self.high),
            Metric(f"{name}/n", float(self.num_items)),
        )


NOTHING = Estimate(value=0.0, low=0.0, high=1.0, num_items=0)
"""What is known of a share before anything was measured."""


def wilson(num_successes: int, num_items: int, confidence: float) -> Estimate:
    """The share of successes with Wilson's score interval (Wilson 1927).

    Without items the share is 0 in [0, 1].
    """
    if num_items == 0:
        return NOTHING
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = num_successes / num_items
    scale = 1 + z * z / num_items
    centre = (share + z * z / (2 * num_items)) / scale
    spread = (share * (1 - share) + z * z / (4 * num_items)) / num_items
    half = z * math.sqrt(spread) / scale
    low = centre - half if num_successes else 0.0
    high = centre + half if num_successes < num_items else 1.0
    return Estimate(share, low, high, num_items)


def mean_of(values: Sequence[float], confidence: float) -> Estimate:
    """The mean of two values or more with Student's interval (Student 1908)."""
    from scipy.stats import t

    number = len(values)
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(t.ppf(0.5 + confidence / 2, number - 1)) * deviation / math.sqrt(number)
    return Estimate(mean, mean - half, mean + half, number)


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    confidence: float,
    num_resamples: int,
    seed: int,
) -> Estimate:
    """``sum(numerators) / sum(denominators)`` with the percentile bootstrap over items.

    For word error rates: edits and reference words of each utterance. A resample that drew no
    denominator counts as 0.
    """
    num_items = len(numerators)
    if num_items == 0:
        return NOTHING
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    rng = np.random.Generator(np.random.Philox(key=seed))
    picks = rng.integers(num_items, size=(num_resamples, num_items))
    drawn = bottom[picks].sum(axis=1)
    ratios = np.divide(top[picks].sum(axis=1), drawn, out=np.zeros(num_resamples), where=drawn > 0)
    low, high = np.quantile(ratios, [0.5 - confidence / 2, 0.5 + confidence / 2])
    total = float(bottom.sum())
    value = float(top.sum()) / total if total else 0.0
    return Estimate(value, float(low), float(high), num_items)
