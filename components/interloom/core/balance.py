"""Drawing what is rare more often than it occurs."""

from collections import Counter
from collections.abc import Hashable, Iterable

import numpy as np


class Balanced:
    """Places of words, by which one of them can be drawn.

    A word that stands at n places is drawn as often as ``n ** (1 - balance)`` says, each of its
    places alike: balance 0 draws all places alike, balance 1 all words.
    """

    def __init__(self, words: Iterable[Hashable], balance: float) -> None:
        places = list(words)
        counts = Counter(places)
        self._edges = np.cumsum([counts[word] ** -balance for word in places])

    def draw(self, rng: np.random.Generator) -> int:
        """One place; there must be one."""
        drawn = np.searchsorted(self._edges, rng.random() * self._edges[-1], side="right")
        return min(int(drawn), len(self._edges) - 1)
