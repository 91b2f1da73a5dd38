"""Which rank stands still: every rank leaves word of where it is, and looks at the others."""

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from interloom.core.errors import TransientError

NEXT = "run again, and it goes on from the last checkpoint"
_WIDTH = 200


@dataclass(frozen=True, slots=True, order=True)
class Standing:
    """Where a rank is.

    Attributes:
        step: The optimizer step that it works on.
        micro: The micro-batch of that step; one past the last for the step itself.
        doing: ``loss``, ``backward``, ``step`` or ``checkpoint``.
        rank: Which.
        process: Its number on ``host``.
        host: Where it runs.
    """

    step: int
    micro: int
    doing: str
    rank: int
    process: int
    host: str

    def to_json(self) -> str:
        """For the rank's file: always as long, so that it can be written over."""
        return json.dumps(asdict(self)).ljust(_WIDTH)

    def describe(self) -> str:
        """In words."""
        place = f"step {self.step}, micro-batch {self.micro}, in {self.doing!r}"
        return f"rank {self.rank} (process {self.process}), last at {place}"


class Watch:
    """One rank's word of where it is, in a folder that all ranks see."""

    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        """Open this rank's file."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._rank = rank
        self._world_size = world_size
        self._file = os.open(_path(folder, rank), os.O_WRONLY | os.O_CREAT, 0o644)
        self._moved_s = time.monotonic()
        self._me = os.getpid(), socket.gethostname()
        self.at(0, 0, "start")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def at(self, step: int, micro: int, doing: str) -> None:
        """Say where this rank is. Cheap: one write to an open file."""
        standing = Standing(step, micro, doing, self._rank, *self._me)
        os.pwrite(self._file, standing.to_json().encode(), 0)
        self._moved_s = time.monotonic()

    @property
    def still_s(self) -> float:
        """How long this rank has not moved."""
        return time.monotonic() - self._moved_s

    def breathe(self) -> None:
        """Say that this process is alive, wherever it waits; a frozen one cannot."""
        os.utime(self._file)

    def diagnose(self, silence_s: float) -> str:
        """Who is gone, frozen or behind, as far as one can see from here.

        Args:
            silence_s: A process that has not breathed for so long is frozen.
        """
        seen = [read_standing(self._folder, rank) for rank in range(self._world_size)]
        standing = [found for found in seen if found is not None]
        if gone := [found for found in standing if _is_gone(found)]:
            return f"{_listed(gone)}: the process is gone"
        silent = [found for found in standing if self._silence_s(found.rank) > silence_s]
        if 0 < len(silent) < len(standing):
            return f"{_listed(silent)}: it hangs, frozen, and the others wait for it"
        last = max((found.step, found.micro) for found in standing)
        behind = [found for found in standing if (found.step, found.micro) < last]
        if behind:
            return f"{_listed(behind)}: it hangs, and the others wait for it"
        return f"{_listed(standing)}: none is behind the others"

    def _silence_s(self, rank: int) -> float:
        """How long ago a rank breathed, by the clock of the file system."""
        self.breathe()
        now_s = os.fstat(self._file).st_mtime
        return now_s - _path(self._folder, rank).stat().st_mtime


@contextmanager
def watching(
    watch: Watch, patience_s: float, give_up: Callable[[TransientError], None] | None
) -> Iterator[None]:
    """Give up, from a thread, when this rank has not moved for so long; says which rank hangs.

    Args:
        watch: This rank's.
        patience_s: Longer than any step and checkpoint takes.
        give_up: Ends the process; None to watch nothing.
    """
    is_over = threading.Event()

    tick_s = min(1.0, patience_s / 8)

    def look() -> None:
        while not is_over.wait(tick_s):
            watch.breathe()
            if watch.still_s > patience_s and give_up is not None:
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                found = f"no progress for {patience_s:g} s: {watch.diagnose(patience_s / 2)}"
                give_up(TransientError(f"{found}; {NEXT}"))
                return

    thread = threading.Thread(target=look, name="watch", daemon=True)
    if give_up is not None:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        watch.close()


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def read_standing(folder: Path, rank: int) -> Standing | None:
    """A rank's last word; None if it has not said any."""
    try:
        return Standing(**json.loads(_path(folder, rank).read_bytes()))
    except (OSError, ValueError):
        return None


def _listed(found: Sequence[Standing]) -> str:
    return "; ".join(standing.describe() for standing in found)


def _is_gone(standing: Standing) -> bool:
    """Whether a process of this machine has ended, or only waits to be buried."""
    if standing.host != socket.gethostname():
        return False
    try:
        state = Path(f"/proc/{standing.process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in {"Z", "X"}
