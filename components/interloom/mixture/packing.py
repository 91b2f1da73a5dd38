"""Best-fit packing in time that is linear in the documents.

The free sizes of all open rows are the bits of one integer: the smallest that still holds a
document is found by a shift and a lowest set bit, not by a search over rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.core.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """Where each piece went.

    Attributes:
        rows_P: The row of each piece.
        starts_P: Its first position in the row.
        num_rows: How many rows there are.
    """

    rows_P: NDArray[np.int64]
    starts_P: NDArray[np.int64]
    num_rows: int


def pack_best_fit(lengths_P: Sequence[int] | NDArray[np.int64], row_length: int) -> Packing:
    """Best fit, longest pieces first; equal lengths keep their order.

    Every piece is placed whole, no two overlap, and no row is longer than ``row_length``.

    Raises:
        DataError: A piece is empty or longer than a row.
    """
    lengths = np.asarray(lengths_P, np.int64)
    _require_fit(lengths, row_length)
    order = np.argsort(-lengths, kind="stable")
    rows = np.empty(len(lengths), np.int64)
    starts = np.empty(len(lengths), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]  # rows by free size
    sizes = 0  # bit s: some row has s free
    num_rows = 0
    for piece, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = sizes >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                sizes ^= 1 << free
        else:
            free, row = row_length, num_rows
            num_rows += 1
        rows[piece] = row
        starts[piece] = row_length - free
        left = free - length
        if left:
            open_rows[left].append(row)
            sizes |= 1 << left
    return Packing(rows, starts, num_rows)


def _require_fit(lengths: NDArray[np.int64], row_length: int) -> None:
    bad = np.flatnonzero((lengths < 1) | (lengths > row_length))
    if bad.size:
        raise DataError(
            f"piece {bad[0]} has {lengths[bad[0]]} tokens, a row holds 1 to {row_length}; "
            "cut it or raise row_length"
        )
