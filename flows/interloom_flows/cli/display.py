"""What a person sees while a run goes on: bars in a terminal, plain short lines elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from interloom_flows.listening import RunListener

LINE_EVERY_S = 30.0


@contextmanager
def watching(console: Console, titles: Mapping[str, str]) -> Iterator[RunListener]:
    """A listener that shows a run of the stages in ``titles`` on ``console``."""
    if not console.is_terminal:
        yield _Lines(console, titles)
        return
    bars = Progress(
        TextColumn("{task.fields[mark]}"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}", markup=True),
        console=console,
    )
    shown = _Bars(bars, titles)  # before the display begins, so that it is drawn at once
    with bars:
        yield shown


class _Bars:
    """A live display: one bar a stage, in the order of the pipeline."""

    def __init__(self, bars: Progress, titles: Mapping[str, str]) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {
            stage: bars.add_task(
                f"{stage:<20}", start=False, total=None, mark=" ", note=title, visible=True
            )
            for stage, title in titles.items()
        }

    def started(self, stage: str) -> "_Bar":
        task = self._tasks[stage]
        self._bars.reset(task, start=True, total=None, mark="[cyan]>[/]", note="starting")
        return _Bar(self._bars, task)

    def reused(self, stage: str) -> None:
        self._end(stage, "[green]=[/]", "reused")

    def finished(self, stage: str, wall_s: float) -> None:
        self._end(stage, "[green]v[/]", f"{wall_s:.0f} s")

    def failed(self, stage: str, error: BaseException) -> None:
        self._end(stage, "[red]x[/]", _ending(error))

    def _end(self, stage: str, mark: str, note: str) -> None:
        task = self._tasks[stage]
        self._bars.update(task, total=1, completed=1, mark=mark, note=note)
        self._bars.stop_task(task)


@dataclass(frozen=True, slots=True)
class _Bar:
    """One stage's bar."""

    bars: Progress
    task: TaskID

    def update(self, done: int, total: int | None, note: str = "") -> None:
        self.bars.update(self.task, completed=done, total=total, note=note)


class _Lines:
    """One line at the beginning and the end of each stage, and one every half minute between."""

    def __init__(self, console: Console, titles: Mapping[str, str]) -> None:
        self._console = console
        self._titles = titles
        self._lock = Lock()

    def started(self, stage: str) -> "_StageLines":
        self.say(f"{stage}: {self._titles.get(stage, 'started')}")
        return _StageLines(self, stage)

    def reused(self, stage: str) -> None:
        self.say(f"{stage}: reused")

    def finished(self, stage: str, wall_s: float) -> None:
        self.say(f"{stage}: done in {wall_s:.0f} s")

    def failed(self, stage: str, error: BaseException) -> None:
        self.say(f"{stage}: {_ending(error)}")

    def say(self, line: str) -> None:
        """Print one line, whole."""
        with self._lock:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass(slots=True)
class _StageLines:
    """Progress of one stage, a line now and then."""

    lines: _Lines
    stage: str
    last_s: float = field(default_factory=time.monotonic)

    def update(self, done: int, total: int | None, note: str = "") -> None:
        now_s = time.monotonic()
        if now_s - self.last_s < LINE_EVERY_S:
            return
        self.last_s = now_s
        share = f"{done}/{total}" if total else f"{done}"
        self.lines.say(f"{self.stage}: {share} {note}".rstrip())


def _ending(error: BaseException) -> str:
    """How a stage ended that has no result, in a few words."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return f"failed: {first_line[:100]}"
