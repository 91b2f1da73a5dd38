"""Packing documents into rows: Interloom against best fit by a search over all open rows.

The peer is ESPnet's packer re-stated from its description (best fit decreasing, one process): for
each document every open row is looked at. A test checks that both need as many rows.

    python benchmarks/packing.py
"""

import statistics
from collections.abc import Sequence
from time import perf_counter

import numpy as np
from _sides import OURS, compared, rate, rates_in_turns, show

from interloom.mixture.packing import pack_best_fit

PEER = "linear best fit"
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


def compare(count: int) -> dict[str, object]:
    """Both sides in turns over the same documents."""
    lengths = documents(count)
    rows = {}

    def ours() -> None:
        rows[OURS] = pack_best_fit(lengths, ROW_LENGTH).num_rows

    def theirs() -> None:
        rows[PEER] = linear_best_fit(lengths, ROW_LENGTH)

    rates = rates_in_turns({OURS: ours, PEER: theirs}, count, TURNS)
    return {"documents": count, "rows": rows} | compared(rates)


def million() -> dict[str, object]:
    """Interloom's side alone on a million documents, for which the peer would need hours."""
    lengths = documents(MILLION)
    rows = []
    seconds = [
        1 / rate(lambda: rows.append(pack_best_fit(lengths, ROW_LENGTH).num_rows), 1, perf_counter)
        for _ in range(TURNS)
    ]
    least = -(-sum(lengths) // ROW_LENGTH)
    return {
        "documents": MILLION,
        "seconds": round(statistics.median(seconds), 2),
        "rows over the least": f"{rows[0] / least - 1:.4%}",
    }


def main() -> None:
    """Print one line a size, then the figure as JSON."""
    print(million())
    show("packing", "documents/s", [compare(count) for count in SIZES])


if __name__ == "__main__":
    main()
