"""Packing documents into rows: Interloom against best fit by a search over all open rows.

The peer is ESPnet's packer re-stated from its description (best fit decreasing, one process): for
each document every open row is looked at. A test checks that both need as many rows.

    python benchmarks/packing.py
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from interloom.mixture.packing import pack_best_fit

ROW_LENGTH = 2048
TURNS = 3
MILLION = 1_000_000
SIZES = (20_000, 50_000)  # below, both take no time that anyone waits for


def linear_best_fit(lengths: Sequence[int], row_length: int) -> int:
    """Rows that best fit decreasing needs, found by looking at every open row."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        best, best_left = -1, row_length + 1
        for row, left in enumerate(free):
            if length <= left < best_left:
                best, best_left = row, left
        if best < 0:
            free.append(row_length - length)
        else:
            free[best] -= length
    return len(free)


def documents(count: int) -> list[int]:
    """Lengths like those of web text: log-normal, cut to a row."""
    rng = np.random.Generator(np.random.Philox(7))
    drawn = rng.lognormal(5.0, 1.0, count)
    return [int(length) for length in np.clip(drawn, 8, ROW_LENGTH)]


def rate(pack: Callable[[], int], count: int) -> tuple[float, int]:
    """Documents a second, and rows."""
    started_s = time.perf_counter()
    rows = pack()
    return count / (time.perf_counter() - started_s), rows


def compare(count: int) -> dict[str, object]:
    """Both sides in turns over the same documents."""
    lengths = documents(count)
    ours, theirs = [], []
    for _ in range(TURNS):
        our_rate, our_rows = rate(lambda: pack_best_fit(lengths, ROW_LENGTH).num_rows, count)
        their_rate, their_rows = rate(lambda: linear_best_fit(lengths, ROW_LENGTH), count)
        ours.append(our_rate)
        theirs.append(their_rate)
    return {
        "documents": count,
        "interloom": summary(ours),
        "linear best fit": summary(theirs),
        "rows": {"interloom": our_rows, "linear best fit": their_rows},
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 2),
    }


def million() -> dict[str, object]:
    """Interloom's side alone on a million documents, for which the peer would need hours."""
    lengths = documents(MILLION)
    rates = [
        rate(lambda: pack_best_fit(lengths, ROW_LENGTH).num_rows, MILLION) for _ in range(TURNS)
    ]
    least = -(-sum(lengths) // ROW_LENGTH)
    seconds = statistics.median(MILLION / one for one, _ in rates)
    over = rates[0][1] / least - 1
    return {
        "documents": MILLION,
        "seconds": round(seconds, 2),
        "rows over the least": f"{over:.4%}",
    }


def summary(rates: Sequence[float]) -> dict[str, float]:
    """Median and spread."""
    return {
        "median": round(statistics.median(rates)),
        "min": round(min(rates)),
        "max": round(max(rates)),
    }


def main() -> None:
    """Print one line a size, then the figure as JSON."""
    configs = [compare(count) for count in SIZES]
    for config in (*configs, million()):
        print(config)
    worst = min(float(str(config["ratio"])) for config in configs)
    print(
        json.dumps({"figure": "packing", "unit": "documents/s", "configs": configs, "ratio": worst})
    )


if __name__ == "__main__":
    main()
