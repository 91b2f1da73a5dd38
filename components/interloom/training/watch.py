"""Which rank stands still: every rank leaves word of where it is, and looks at the others."""

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from interloom.core.errors import TransientError

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
        os.pwrite(self._file, json.dumps(asdict(standing)).ljust(_WIDTH).encode(), 0)
        self._moved_s = time.monotonic()

    @property
    def still_s(self) -> float:
        """How long this rank has not moved."""
        return time.monotonic() - self._moved_s

    def diagnose(self) -> str:
        """Who is gone or behind, as far as one can see from here."""
        seen = [_read(_path(self._folder, rank)) for rank in range(self._world_size)]
        standing = [found for found in seen if found is not None]
        gone = [found for found in standing if _is_gone(found)]
        if gone:
            return f"{'; '.join(found.describe() for found in gone)}: the process is gone"
        behind = min(standing, key=lambda found: (found.step, found.micro))
        ahead = [f for f in standing if (f.step, f.micro) > (behind.step, behind.micro)]
        if not ahead:
            return f"{'; '.join(found.describe() for found in standing)}: none is behind the others"
        waiting = ", ".join(str(found.rank) for found in ahead)
        return f"{behind.describe()}: it hangs, and rank {waiting} waits for it"


@contextmanager
def watching(
    watch: Watch, patience_s: float, give_up: "Callable[[TransientError], None] | None"
) -> Iterator[None]:
    """Give up, from a thread, when this rank has not moved for so long; says which rank hangs.

    Args:
        watch: This rank's.
        patience_s: Longer than any step and checkpoint takes.
        give_up: Ends the process; None to watch nothing.
    """
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(min(1.0, patience_s / 4)):
            if watch.still_s > patience_s and give_up is not None:
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                give_up(TransientError(f"no progress for {patience_s:g} s: {watch.diagnose()}"))
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


def _read(path: Path) -> Standing | None:
    """A rank's last word; None if it has not said any."""
    try:
        return Standing(**json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None


def _is_gone(standing: Standing) -> bool:
    """Whether a process of this machine has ended, or only waits to be buried."""
    if standing.host != socket.gethostname():
        return False
    try:
        state = Path(f"/proc/{standing.process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in {"Z", "X"}
