"""Curves of training over what they took: trainings of unequal steps on equal data, or compute."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from interloom.ports.catalog import Metric

_SUMS = {"tokens": "language_model/tokens_seen", "flops": "language_model/flops"}


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """What a curve had come to.

    Attributes:
        tokens: That had been read by then, codes counted one by one.
        flops: Operations that had been done.
        value: Of the curve: a mean since the point before.
    """

    tokens: float
    flops: float
    value: float


def learning_curve(metrics: Iterable[Metric], name: str) -> tuple[LearningPoint, ...]:
    """A curve of the language model's training, over tokens and operations.

    Args:
        metrics: All of its stage: points of curves and results.
        name: Of the curve, such as ``train/loss/speech``.

    Returns:
        Its points; none if it, or what it is laid over, was not recorded.
    """
    held = list(metrics)
    steps = {one.step: one.value for one in held if one.name == name and one.step is not None}
    taken = [_taken(held, unit) for unit in _SUMS]
    if not steps or any(steps.keys() - one.keys() for one in taken):
        return ()
    tokens, flops = taken
    return tuple(LearningPoint(tokens[at], flops[at], steps[at]) for at in sorted(steps))


def value_at(curve: tuple[LearningPoint, ...], tokens: float) -> float | None:
    """The curve where so many tokens had been read, between its points; None if it ends before."""
    if not curve or not curve[0].tokens <= tokens <= curve[-1].tokens * (1 + 1e-3):
        return None
    return float(np.interp(tokens, [one.tokens for one in curve], [one.value for one in curve]))


def _taken(metrics: Iterable[Metric], unit: str) -> dict[int, float]:
    """How much was taken up to each step: of means a micro-batch and the sum of the whole."""
    held = list(metrics)
    total = next((one.value for one in held if one.name == _SUMS[unit]), None)
    means = sorted(
        (one.step, one.value) for one in held if one.name == f"train/{unit}" and one.step
    )
    if total is None or not means:
        return {}
    steps = np.array([step for step, _ in means], np.float64)
    grown = np.cumsum(np.diff(steps, prepend=0) * [value for _, value in means])
    return dict(zip(steps.astype(int).tolist(), (total * grown / grown[-1]).tolist(), strict=True))
