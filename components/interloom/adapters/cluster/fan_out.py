"""The shards of a data stage, made by several jobs side by side before the stage itself."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue

from interloom.config.cluster import FanOutProfile
from interloom.core.errors import TransientError
from interloom.ports.launcher import JobReport, StageJob
from interloom.ports.progress import Progress

_POLL_S = 0.5
_COUNT = "count"

Run = Callable[[StageJob, Progress, threading.Event], JobReport]


@dataclass(frozen=True, slots=True)
class _Notes:
    """Carries what a part tells to the thread that follows all of them."""

    part: StageJob
    told: "SimpleQueue[tuple[StageJob, str]]"

    def update(self, done: int, total: int | None, note: str = "") -> None:  # noqa: ARG002
        """Hand the note on."""
        self.told.put((self.part, note))


def parts_of(job: StageJob, limits: FanOutProfile) -> tuple[StageJob, ...]:
    """The parts of a job, in as many as it was begun in: two ways of cutting must not meet."""
    path = job.folder / "parts" / _COUNT
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(limits.parts))
    return job.parts(int(path.read_text()))


def run_parts(
    job: StageJob,
    limits: FanOutProfile,
    run: Run,
    *,
    progress: Progress,
    is_stopped: threading.Event,
) -> None:
    """Run the parts that are not done, ``limits.at_once`` side by side.

    Args:
        job: The stage.
        limits: How many, and how often each may be tried again.
        run: Runs one part to its end, or to when the event is set.
        progress: Told what parts tell, with how many are done.
        is_stopped: Ends all.

    Raises:
        KeyboardInterrupt: ``is_stopped`` was set.
        InterloomError: What the first part that failed for good ended by; the others are ended.
    """
    parts = parts_of(job, limits)
    todo = [part for part in parts if not (part.folder / "result.json").is_file()]
    told: SimpleQueue[tuple[StageJob, str]] = SimpleQueue()
    is_over = threading.Event()
    with ThreadPoolExecutor(limits.at_once, thread_name_prefix="part") as pool:
        running = [
            pool.submit(_run_one, part, limits.retries, run, _Notes(part, told), is_over)
            for part in todo
        ]
        try:
            _follow(running, told, progress, len(parts), is_stopped)
        finally:
            is_over.set()
            for future in running:
                future.cancel()


def _run_one(
    part: StageJob, retries: int, run: Run, progress: _Notes, is_over: threading.Event
) -> None:
    """One part, tried again where that may help."""
    for left in range(retries, -1, -1):
        if is_over.is_set():
            raise KeyboardInterrupt
        try:
            run(part, progress, is_over)
        except TransientError as error:
            if not left:
                is_over.set()
                raise
            progress.update(0, None, f"tried again, {left} times at most: {error}")
        except BaseException:
            is_over.set()  # at once: the next in line must not begin
            raise
        else:
            return


def _follow(
    running: Sequence["Future[None]"],
    told: "SimpleQueue[tuple[StageJob, str]]",
    progress: Progress,
    num_parts: int,
    is_stopped: threading.Event,
) -> None:
    """Wait for all parts or the first that failed, and tell what they tell."""
    before = num_parts - len(running)
    while True:
        done, open_ = wait(running, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
        while not told.empty():
            part, note = told.get()
            progress.update(before + len(done), num_parts, f"part {part.part}: {note}")
        failed = [error for one in running if one in done and (error := one.exception())]
        if failed:  # those that were told to end are not the cause
            raise min(failed, key=lambda error: isinstance(error, KeyboardInterrupt))
        if not open_:
            return
        if is_stopped.is_set():
            raise KeyboardInterrupt
