"""The order of training: a pure function of the seed and the index, for any number of rows."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4
_U = np.uint64


@dataclass(frozen=True, slots=True)
class RowOrder:
    """Endless passes over ``num_rows`` rows, each in an order of its own.

    The order is computed, not stored: a Feistel network permutes the smallest power of four that
    holds all rows, and indices that fall outside walk on until they fall inside.

    Attributes:
        num_rows: How many rows there are.
        seed: Of the order.
        phase_rows: Rows of each phase of a schedule, which stand one after the other: a pass goes
            through the phases in turn, each in an order of its own. Empty for one phase.
    """

    num_rows: int
    seed: int
    phase_rows: tuple[int, ...] = ()

    def rows(self, start: int, stop: int) -> list[int]:
        """The rows at global indices ``[start, stop)``; each epoch holds every row once."""
        rows: list[int] = []
        while start < stop:
            epoch, place = divmod(start, self.num_rows)
            first, size, name = self._phase(place, epoch)
            last = min(stop - start, first + size - place) + place - first
            keys = _keys(f"{self.seed}/{name}")
            rows += (_permuted(np.arange(place - first, last), size, keys) + first).tolist()
            start += last - (place - first)
        return rows

    def row(self, index: int) -> int:
        """The row at a global index."""
        return self.rows(index, index + 1)[0]

    def epoch(self, index: int) -> NDArray[np.int64]:
        """All rows of one epoch in order; for reports and tests."""
        start = index * self.num_rows
        return np.array(self.rows(start, start + self.num_rows), np.int64)

    def _phase(self, place: int, epoch: int) -> tuple[int, int, str]:
        """First row and rows of the phase that a place is in, and what its order hangs on."""
        first = 0
        for number, size in enumerate(self.phase_rows[:-1]):
            if place < first + size:
                return first, size, f"{epoch}/{number}"
            first += size
        return first, self.num_rows - first, f"{epoch}"


def _keys(name: str) -> tuple[int, ...]:
    digest = hashlib.sha256(name.encode()).digest()
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "big") for i in range(_ROUNDS))


def _permuted(places: NDArray[np.int64], size: int, keys: tuple[int, ...]) -> NDArray[np.int64]:
    """Where a permutation of ``[0, size)`` sends these places."""
    half = max(1, (size - 1).bit_length() + 1 >> 1)
    values = _feistel(places.astype(_U), half, keys)
    while (outside := values >= _U(size)).any():
        values[outside] = _feistel(values[outside], half, keys)
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: int, keys: tuple[int, ...]) -> NDArray[np.uint64]:
    """A permutation of the ``2 * half``-bit integers."""
    mask = _U((1 << half) - 1)
    left, right = values >> _U(half), values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ _U(key)) & mask)
    return left << _U(half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: every input bit reaches every output bit."""
    values = (values ^ values >> _U(30)) * _U(0xBF58476D1CE4E5B9)
    values = (values ^ values >> _U(27)) * _U(0x94D049BB133111EB)
    return values ^ values >> _U(31)
