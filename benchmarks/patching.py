"""Cutting rows into patches: Interloom against a loop over tokens.

The peer is the released Latent Speech-Text code's static rule re-stated from its description: one
pass of plain Python over the tokens of a row. Both give the same lengths.

    python benchmarks/patching.py
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _sides import OURS, compared, rates_in_turns, show
from numpy.typing import NDArray

from interloom.language_model.patches.cutting import cut as cut_rows

Lengths = list[int]
Numbers = NDArray[np.int64]

TURNS = 5
SPEECH_OFFSET = 1000
CONFIGS = (
    {"rows": 64, "tokens": 4096, "patch size": 2},
    {"rows": 64, "tokens": 4096, "patch size": 4},
)


def rows_of(rows: int, tokens: int) -> tuple[Numbers, Numbers]:
    """Ids and documents: runs of 20 tokens, two thirds of them speech, documents of 400."""
    rng = np.random.Generator(np.random.Philox(7))
    runs, documents = (
        np.stack(
            [
                np.searchsorted(
                    np.cumsum(rng.geometric(1 / mean, tokens)), np.arange(tokens), side="right"
                )
                for _ in range(rows)
            ]
        )
        for mean in (20, 400)
    )
    ids = np.where(runs % 3 != 0, SPEECH_OFFSET, 0) + rng.integers(0, 500, runs.shape)
    return ids, documents


def by_loop(ids: Sequence[Sequence[int]], documents: Sequence[Sequence[int]], size: int) -> Lengths:
    """Lengths of the patches of all rows, token by token."""
    lengths: Lengths = []
    for row, numbers in zip(ids, documents, strict=True):
        room, last = 0, -1
        for token, number in zip(row, numbers, strict=True):
            is_speech = token >= SPEECH_OFFSET
            if is_speech and room and number == last:
                lengths[-1] += 1
                room -= 1
            else:
                lengths.append(1)
                room = size - 1 if is_speech else 0
            last = number
    return lengths


def compare(config: dict[str, int]) -> dict[str, Any]:
    """Both sides in turns over the same rows."""
    size, total = config["patch size"], config["rows"] * config["tokens"]
    ids, documents = rows_of(config["rows"], config["tokens"])
    listed = ids.tolist(), documents.tolist()

    def ours() -> Numbers:
        return cut_rows(ids >= SPEECH_OFFSET, documents, size).lengths_M

    if ours().tolist() != by_loop(*listed, size):
        raise SystemExit("the lengths differ")
    sides: dict[str, Callable[[], object]] = {
        OURS: ours,
        "token loop": lambda: by_loop(*listed, size),
    }
    return config | compared(rates_in_turns(sides, total, TURNS))


def main() -> None:
    """Print one line a configuration, then the figure as JSON."""
    show("patching", "tokens/s", [compare(config) for config in CONFIGS])


if __name__ == "__main__":
    main()
