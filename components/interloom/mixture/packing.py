"""Best-fit packing in time that is linear in the documents.

The free sizes of all open rows are the bits of one integer: the smallest that still holds a
document is found by a shift and a lowest set bit, not by a search over rows; documents of one
length are placed together.
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
    sizes, counts = np.unique(lengths, return_counts=True)
    shelf = _Shelf(row_length)
    for length, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        shelf.place(length, count)
    rows, starts = np.empty((2, len(lengths)), np.int64)
    rows[order], starts[order] = shelf.rows, shelf.starts
    return Packing(rows, starts, shelf.num_rows)


class _Shelf:
    """Open rows by their free size. Pieces of one length are placed together.

    The tightest row that holds a piece takes the next ones of that length too, as long as they fit:
    nothing can be tighter. So all rows of one free size are filled in one go, with the outcome that
    one piece after the other would have.
    """

    def __init__(self, row_length: int) -> None:
        self.rows: list[int] = []  # of each piece that was placed
        self.starts: list[int] = []
        self.num_rows = 0
        self._row_length = row_length
        self._open: list[list[int]] = [[] for _ in range(row_length + 1)]
        self._sizes = 0  # bit s: some row has s free

    def place(self, length: int, count: int) -> None:
        """Place ``count`` pieces of one length."""
        while count:
            fitting = self._sizes >> length
            free = length + (fitting & -fitting).bit_length() - 1 if fitting else self._row_length
            per_row = min(count, free // length)
            taken = self._take(free, count // per_row, is_new=not fitting)
            self._fill(taken, free, length, per_row)
            count -= len(taken) * per_row

    def _take(self, free: int, most: int, *, is_new: bool) -> "list[int] | range":
        """Up to ``most`` rows with so much free: new ones, or the last that came to be so."""
        if is_new:
            self.num_rows += most
            return range(self.num_rows - most, self.num_rows)
        held = self._open[free]
        taken = held[-most:]
        del held[-most:]
        if not held:
            self._sizes ^= 1 << free
        taken.reverse()
        return taken

    def _fill(self, taken: "list[int] | range", free: int, length: int, per_row: int) -> None:
        """Put ``per_row`` pieces into each of these rows."""
        first = self._row_length - free
        starts = range(first, first + per_row * length, length)
        self.starts += [*starts] * len(taken)
        self.rows += taken if per_row == 1 else [row for row in taken for _ in starts]
        left = free - per_row * length
        if left:
            self._open[left] += taken
            self._sizes |= 1 << left


def num_units(is_speech_T: NDArray[np.bool_], size: int) -> int:
    """Tokens and, of each run of speech, patches of up to ``size``."""
    edges = np.diff(is_speech_T.astype(np.int8), prepend=0, append=0)
    runs = np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)
    return int(len(is_speech_T) - runs.sum() + (-(-runs // size)).sum())


def _require_fit(lengths: NDArray[np.int64], row_length: int) -> None:
    bad = np.flatnonzero((lengths < 1) | (lengths > row_length))
    if bad.size:
        raise DataError(
            f"piece {bad[0]} has {lengths[bad[0]]} tokens, a row holds 1 to {row_length}; "
            "cut it or raise row_length"
        )
