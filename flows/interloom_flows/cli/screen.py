"""Where words go: results to standard output, everything else to standard error."""

from rich.console import Console
from rich.table import Table

_FILE_WIDTH = 160  # columns for a reader that is not a terminal


def out() -> Console:
    """For results: what a pipe or a file should get."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def err() -> Console:
    """For progress and errors."""
    return Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """One line on standard error, never wrapped, nothing in it taken for markup."""
    err().print(line, markup=False, soft_wrap=True)


def put(line: str) -> None:
    """One line of a result, never wrapped, nothing in it taken for markup."""
    out().print(line, markup=False, soft_wrap=True)


def table(title: str, *columns: str) -> Table:
    """An empty table; ``>name`` is a column of numbers."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        is_number = column.startswith(">")
        made.add_column(
            column.removeprefix(">"),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number,
        )
    return made


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(num_bytes: int) -> str:
    """Bytes as a person says them."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
