"""Which pages of the cache hold which slot: a slot takes as many as its span has reached.

Page i is the first page of slot i, always; further ones are taken from a pool, the lowest first, so
that those in use stay together and only they are computed.

Shapes: S = slots, M = pages a slot may have, P = pages.
"""

import heapq

import numpy as np

PAGE = 32
_NEVER = 1 << 40  # a position that no slot reaches


class Pages:
    """The book of all pages.

    Attributes:
        table: Page of each slot's n-th stretch of ``PAGE`` positions, or -1, (M, S).
        owner: Slot of each page, (P,); of a free one any.
        start: Position of each page's first place, (P,); out of reach for a free one.
    """

    def __init__(self, *, num_slots: int, num_positions: int) -> None:
        most = -(-num_positions // PAGE)
        self._num_slots = num_slots
        self._free = list(range(num_slots, num_slots * most))
        self.table = np.full((most, num_slots), -1, np.int64)
        self.table[0] = np.arange(num_slots)
        self.owner = np.zeros(num_slots * most, np.int64)
        self.owner[:num_slots] = np.arange(num_slots)
        self.start = np.full(num_slots * most, _NEVER)
        self.start[:num_slots] = 0

    @property
    def num_used(self) -> int:
        """Pages up to the last one in use."""
        return max(self._num_slots, int(self.table.max()) + 1)

    def reach(self, slot: int, position: int) -> None:
        """See to it that a slot has all pages up to a position."""
        for rank in range(1, position // PAGE + 1):
            if self.table[rank, slot] < 0:
                page = heapq.heappop(self._free)
                self.table[rank, slot] = page
                self.owner[page], self.start[page] = slot, rank * PAGE

    def release(self, slot: int) -> None:
        """Give back all of a slot's pages but the first."""
        taken = self.table[1:, slot]
        for page in taken[taken >= 0].tolist():
            self.start[page] = _NEVER
            heapq.heappush(self._free, page)
        taken[:] = -1
