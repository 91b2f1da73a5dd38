"""A plot of points with intervals as SVG: no library, the same bytes for the same numbers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 900, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 260, 20, 150
_COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e",
    "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22",
)  # fmt: skip
_TICKS = 5


@dataclass(frozen=True, slots=True)
class SeriesPoint:
    """A value at a place on the axis, with the bounds of its interval."""

    place: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one number."""

    name: str
    points: tuple[SeriesPoint, ...]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values and places are on the sheet."""

    low: float
    high: float
    num_places: int

    def x(self, place: float) -> float:
        width = _WIDTH - _LEFT - _RIGHT
        return _LEFT + width * (place + 0.5) / max(1, self.num_places)

    def y(self, value: float) -> float:
        height = _HEIGHT - _TOP - _BOTTOM
        return _TOP + height * (self.high - value) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one curve, (x, y); x is above 0."""

    name: str
    points: tuple[tuple[float, float], ...]


def svg_lines(lines: Sequence[Line], *, title: str) -> str:
    """Draw curves over an axis of logarithms."""
    across = [math.log10(x) for line in lines for x, _ in line.points]
    values = [y for line in lines for _, y in line.points]
    first, last = min(across, default=0.0), max(across, default=1.0)
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 0.5
    frame = _Frame(low - margin, high + margin, _TICKS + 1)
    span = (last - first) or 1.0
    ticks = [f"{10 ** (first + span * tick / _TICKS):.2g}" for tick in range(_TICKS + 1)]
    drawn = [*_head(), *_axes(frame, ticks), f'<text x="{_LEFT}" y="14">{escape(title)}</text>']
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [
            f"{frame.x(_TICKS * (math.log10(x) - first) / span):.1f},{frame.y(y):.1f}"
            for x, y in line.points
        ]
        dashes = ' stroke-dasharray="5 3"' if number >= len(_COLOURS) else ""
        path = f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}"{dashes}/>'
        drawn += [path, *_legend(line.name, colour, number)]
    return "\n".join([*drawn, "</svg>"]) + "\n"


def _head() -> Iterator[str]:
    """The sheet."""
    size = f'width="{_WIDTH}" height="{_HEIGHT}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    yield '<rect width="100%" height="100%" fill="white"/>'


def svg_plot(series: Sequence[Series], labels: Sequence[str]) -> str:
    """Draw the series over places that are named by ``labels``."""
    values = [
        value
        for one in series
        for point in one.points
        for value in (point.low, point.value, point.high)
        if value is not None
    ]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 0.5
    frame = _Frame(low - margin, high + margin, len(labels))
    lines = [*_head(), *_axes(frame, labels)]
    for number, one in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * 0.6 / max(1, len(series))
        lines += _series(frame, one, _COLOURS[number % len(_COLOURS)], shift)
        lines += _legend(one.name, _COLOURS[number % len(_COLOURS)], number)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _axes(frame: _Frame, labels: Sequence[str]) -> Iterator[str]:
    for tick in range(_TICKS + 1):
        value = frame.low + (frame.high - frame.low) * tick / _TICKS
        y = frame.y(value)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
    for place, label in enumerate(labels):
        x, y = frame.x(place), _HEIGHT - _BOTTOM + 14
        yield (
            f'<text x="{x:.1f}" y="{y}" text-anchor="end" '
            f'transform="rotate(-35 {x:.1f} {y})">{escape(label)}</text>'
        )


def _series(frame: _Frame, one: Series, colour: str, shift: float) -> Iterator[str]:
    for point in one.points:
        x, y = frame.x(point.place + shift), frame.y(point.value)
        if point.low is not None and point.high is not None:
            top, bottom = frame.y(point.high), frame.y(point.low)
            yield (
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" '
                f'stroke="{colour}" stroke-width="1.5"/>'
            )
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'


def _legend(name: str, colour: str, number: int) -> Iterator[str]:
    x, y = _WIDTH - _RIGHT + 16, _TOP + 14 + 16 * number
    yield f'<circle cx="{x}" cy="{y - 4}" r="3.5" fill="{colour}"/>'
    yield f'<text x="{x + 10}" y="{y}">{escape(name)}</text>'
