"""The order of training: a pure function of the seed and the index, for any number of rows."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class RowOrder:
    """Endless passes over ``num_rows`` rows, each in an order of its own.

    The order is computed, not stored: a Feistel network permutes the smallest power of four that
    holds all rows, and indices that fall outside walk on until they fall inside.
    """

    num_rows: int
    seed: int

    def rows(self, start: int, stop: int) -> list[int]:
        """The rows at global indices ``[start, stop)``."""
        return [self.row(index) for index in range(start, stop)]

    def row(self, index: int) -> int:
        """The row at a global index; each epoch holds every row once."""
        epoch, place = divmod(index, self.num_rows)
        keys = self._keys(epoch)
        half = max(1, (self.num_rows - 1).bit_length() + 1 >> 1)
        while True:
            place = _feistel(place, half, keys)
            if place < self.num_rows:
                return place

    def epoch(self, index: int) -> NDArray[np.int64]:
        """All rows of one epoch in order; for reports and tests."""
        start = index * self.num_rows
        return np.array(self.rows(start, start + self.num_rows), np.int64)

    def _keys(self, epoch: int) -> tuple[int, ...]:
        digest = hashlib.sha256(f"{self.seed}/{epoch}".encode()).digest()
        return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "big") for i in range(_ROUNDS))


def _feistel(value: int, half: int, keys: tuple[int, ...]) -> int:
    """A permutation of the ``2 * half``-bit integers."""
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return left << half | right


def _mix(value: int) -> int:
    """The finaliser of SplitMix64: every input bit reaches every output bit."""
    value &= 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31
