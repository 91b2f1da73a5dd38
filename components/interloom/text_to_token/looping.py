"""Loops seen while they are decoded: the codes of all slots are watched one by one.

Shapes: S = slots, T = cycle lengths that are looked for.
"""

import numpy as np
from numpy.typing import NDArray

from interloom.text_to_token.jobs import LoopRule

_NEVER = 1 << 40


class LoopWatch:
    """Counts, for each slot and each length of a cycle, how many codes in a row have repeated it.

    It tells a loop at the code at which ``guards.has_loop`` would first see it.
    """

    def __init__(self, *, num_slots: int, longest_cycle: int) -> None:
        self._lags = np.arange(1, longest_cycle + 1)
        self._repeats = np.zeros((num_slots, longest_cycle), np.int64)
        self._enough = np.full((num_slots, longest_cycle), _NEVER)

    def begin(self, slot: int, rule: LoopRule | None) -> None:
        """Another span sits in a slot; its first code repeats nothing."""
        self._repeats[slot] = 0
        self._enough[slot] = _NEVER
        if rule is not None:
            self._enough[slot, : rule.period] = rule.run - self._lags[: rule.period]

    def see(self, codes: NDArray[np.int32], made_S: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which slots hold a loop with their newest code, the ``made_S``-th of ``codes``, (S,)."""
        earlier = made_S[:, None] - 1 - self._lags
        rows = np.arange(len(made_S))
        newest = codes[rows, made_S - 1]
        same = (earlier >= 0) & (codes[rows[:, None], earlier.clip(min=0)] == newest[:, None])
        self._repeats = (self._repeats + 1) * same
        looped: NDArray[np.bool_] = np.any(self._repeats >= self._enough, axis=1)
        return looped
