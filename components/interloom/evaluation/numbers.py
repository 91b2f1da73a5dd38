"""Metrics as a person reads them: a value with its interval and the number of its items."""

from collections.abc import Mapping
from dataclasses import dataclass

_SUFFIXES = ("/low", "/high", "/n")


@dataclass(frozen=True, slots=True)
class Number:
    """A result; bounds of its interval and the number of items where it has them.

    What had no items to be measured on has no value.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    num_items: int | None = None


def fold_intervals(values: Mapping[str, float]) -> tuple[Number, ...]:
    """One line a number: ``NAME/low``, ``NAME/high`` and ``NAME/n`` go with ``NAME``."""
    names = [name for name in values if not name.endswith(_SUFFIXES)]
    measured = {f"{name}/n" for name in names}
    return tuple(_number(name, values) for name in names) + tuple(
        Number(name.removesuffix("/n"), None, num_items=0)
        for name, value in values.items()
        if name.endswith("/n") and value == 0 and name not in measured
    )


def _number(name: str, values: Mapping[str, float]) -> Number:
    low, high, count = (values.get(f"{name}{end}") for end in _SUFFIXES)
    return Number(name, values[name], low, high, None if count is None else int(count))
