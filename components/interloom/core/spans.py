"""Half-open runs, and the one place where seconds become frames."""

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A run ``[start, stop)`` of words, bytes, samples, frames or tokens; never empty."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"Span needs 0 <= start < stop, got [{self.start}, {self.stop})")

    @property
    def length(self) -> int:
        """How many positions it covers."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class FrameClock:
    """The one place where samples and seconds become frames.

    Attributes:
        sample_rate_hz: Audio samples per second.
        samples_per_frame: Audio samples per frame (the codec's total stride).
    """

    sample_rate_hz: int
    samples_per_frame: int

    @property
    def frame_rate_hz(self) -> Fraction:
        """Frames per second, exact: 16 kHz / 1280 is 25/2, not 12.499."""
        return Fraction(self.sample_rate_hz, self.samples_per_frame)

    def num_frames(self, num_samples: int) -> int:
        """Frames that cover ``num_samples``; the last may be partly filled."""
        return -(-num_samples // self.samples_per_frame)

    def span(self, start_sample: int, stop_sample: int) -> Span:
        """The shortest span of frames that covers samples ``[start_sample, stop_sample)``."""
        stop = max(self.num_frames(stop_sample), start_sample // self.samples_per_frame + 1)
        return Span(start_sample // self.samples_per_frame, stop)

    def span_of_seconds(self, start_s: float, stop_s: float) -> Span:
        """The shortest span that covers ``[start_s, stop_s)`` seconds."""
        rate = self.frame_rate_hz
        return Span(math.floor(Fraction(start_s) * rate), math.ceil(Fraction(stop_s) * rate))
