from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.core.spans import FrameClock, Span

CLOCK = FrameClock(sample_rate_hz=16_000, samples_per_frame=1280)


def test_the_frame_rate_is_exact() -> None:
    assert CLOCK.frame_rate_hz == Fraction(25, 2)


@pytest.mark.parametrize(
    ("num_samples", "num_frames"), [(1, 1), (1280, 1), (1281, 2), (16_000, 13)]
)
def test_a_partly_filled_frame_counts(num_samples: int, num_frames: int) -> None:
    assert CLOCK.num_frames(num_samples) == num_frames


@given(st.integers(0, 10**7), st.integers(1, 10**6))
def test_a_span_of_frames_covers_its_samples(start: int, length: int) -> None:
    span = CLOCK.span(start, start + length)

    assert span.start * 1280 <= start
    assert span.stop * 1280 >= start + length
    assert (span.stop - 1) * 1280 < start + length


def test_seconds_become_the_shortest_span_of_frames() -> None:
    assert CLOCK.span_of_seconds(0.1, 0.2) == Span(1, 3)


@pytest.mark.parametrize(("start", "stop"), [(2, 2), (3, 2), (-1, 2)])
def test_a_span_is_never_empty(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="Span needs 0 <= start < stop"):
        Span(start, stop)
