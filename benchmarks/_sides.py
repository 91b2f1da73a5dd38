"""What the benchmarks share: sides that take turns, their spread, and the line a program reads."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

OURS = "interloom"


def rate(task: Callable[[], object], amount: float, clock: Callable[[], float]) -> float:
    """How much of ``amount`` a second the task gets through, by that clock."""
    started_s = clock()
    task()
    return amount / (clock() - started_s)


def rates_in_turns(
    tasks: Mapping[str, Callable[[], object]],
    amount: float,
    turns: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Each side's rates: in each turn every side works once, so that load falls on all alike."""
    rates: dict[str, list[float]] = {side: [] for side in tasks}
    for _ in range(turns):
        for side, task in tasks.items():
            rates[side].append(rate(task, amount, clock))
    return rates


def spread(values: Sequence[float], digits: int | None = None) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def compared(
    values: Mapping[str, Sequence[float]],
    digits: int | None = None,
    *,
    is_less_better: bool = False,
) -> dict[str, Any]:
    """The spread of each side, and how many times better than its peer Interloom is."""
    (peer,) = (side for side in values if side != OURS)
    ratio = statistics.median(values[OURS]) / statistics.median(values[peer])
    return {side: spread(one, digits) for side, one in values.items()} | {
        "ratio": round(1 / ratio if is_less_better else ratio, 2)
    }


def show(figure: str, unit: str, configs: Sequence[Mapping[str, Any]], **more: object) -> None:
    """Print a line a configuration, then all of them as JSON with the worst ratio."""
    for config in configs:
        print(config)
    worst = min(config["ratio"] for config in configs)
    body = {"figure": figure, "unit": unit, "configs": configs, "ratio": worst}
    print(json.dumps(body | more))
