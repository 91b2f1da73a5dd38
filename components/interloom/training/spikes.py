"""Steps whose loss leaps, by a robust rule."""

import statistics
from collections import deque
from collections.abc import Iterable

_WINDOW = 64
_FEWEST = 16
_DEVIATION = 1.4826  # times the median absolute deviation: the standard deviation of a normal
_FLOOR = 1e-3  # of the median: losses that hardly move are no reason for alarm


class SpikeDetector:
    """Knows the losses of the last steps; a step is judged by those before it."""

    def __init__(self, deviations: float, recent: Iterable[float] = ()) -> None:
        """Take the limit in deviations, and what a resumed run had seen."""
        self._deviations = deviations
        self._recent = deque(recent, maxlen=_WINDOW)

    @property
    def recent(self) -> tuple[float, ...]:
        """The losses by which the next step is judged, oldest first."""
        return tuple(self._recent)

    def excess(self, loss: float) -> float:
        """How many deviations a step's loss is above the median, if that is a spike; else 0.

        A loss that is no spike is remembered; so a spike does not raise the limit for the next.
        """
        above = self._deviations_above(loss)
        if above > self._deviations:
            return above
        self._recent.append(loss)
        return 0.0

    def _deviations_above(self, loss: float) -> float:
        if len(self._recent) < _FEWEST:
            return 0.0
        middle = statistics.median(self._recent)
        spread = _DEVIATION * statistics.median(abs(value - middle) for value in self._recent)
        return (loss - middle) / max(spread, _FLOOR * abs(middle), 1e-12)
