"""Make units in several processes of this machine, in any order, and hand them on in theirs.

Units go to workers through pipes, two at a time each. A worker that is killed is replaced, and its
units are made again; one that outlives its parent ends itself. Finished units lie in files, so
nothing of a unit but its number passes between processes.
"""

import multiprocessing as mp
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from interloom.core.errors import (
    ConfigError,
    CrashError,
    DataError,
    InterloomError,
    MissingError,
    TransientError,
)
from interloom.corpora.units import Unit

Make = Callable[[Unit], None]

_AHEAD = 2  # units that a worker is given before it has finished the first
_PATIENCE = 5  # workers that one unit may cost
_POLL_S = 0.5
_ERRORS = {
    cls.__name__: cls for cls in (ConfigError, DataError, MissingError, TransientError, CrashError)
}


def make_units(
    units: Iterator[Unit],
    build: Callable[[], Make],
    *,
    is_made: Callable[[Unit], bool],
    num_workers: int,
) -> Iterator[Unit]:
    """Every unit, in order, once it is made.

    Args:
        units: What is to be made.
        build: Gives what makes a unit; called once in each process that does.
        is_made: Whether a unit was finished before.
        num_workers: 1 makes them in this process.

    Raises:
        TransientError: A unit ended its worker again and again.
    """
    if num_workers > 1:
        yield from _Crew(units, build, is_made, num_workers).run()
        return
    make: Make | None = None
    for unit in units:
        if not is_made(unit):
            make = make or build()
            make(unit)
        yield unit


@dataclass
class _Worker:
    """A process and the units it was given."""

    process: BaseProcess
    pipe: Connection
    given: deque[Unit] = field(default_factory=deque)


class _Crew:
    """Workers, what they are given, and what is still to be given."""

    def __init__(
        self,
        units: Iterator[Unit],
        build: Callable[[], Make],
        is_made: Callable[[Unit], bool],
        num_workers: int,
    ) -> None:
        self._units = units
        self._build = build
        self._is_made = is_made
        self._num_workers = num_workers
        self._workers: list[_Worker] = []
        self._again: deque[Unit] = deque()
        self._order: deque[int] = deque()
        self._done: dict[int, Unit] = {}
        self._ended: Counter[int] = Counter()

    def run(self) -> Iterator[Unit]:
        """Every unit in order; leaving ends the workers."""
        try:
            while True:
                self._fill()
                while self._order and self._order[0] in self._done:
                    yield self._done.pop(self._order.popleft())
                    self._fill()
                if not any(worker.given for worker in self._workers):
                    if not self._done:
                        return
                    continue
                self._listen()
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()

    def _fill(self) -> None:
        """Give every worker something to do, starting those that are missing."""
        while (unit := self._next()) is not None:
            idle = [worker for worker in self._workers if not worker.given]
            if not idle and len(self._workers) < self._num_workers:
                idle = [self._start()]
            least = idle[0] if idle else min(self._workers, key=lambda one: len(one.given))
            least.given.append(unit)
            try:
                least.pipe.send(unit)
            except BrokenPipeError:
                self._replace(least)

    def _next(self) -> Unit | None:
        """The next unit to give, if some worker has room."""
        is_short = len(self._workers) < self._num_workers
        if not is_short and all(len(worker.given) >= _AHEAD for worker in self._workers):
            return None
        if self._again:
            return self._again.popleft()
        for unit in self._units:
            self._order.append(unit.index)
            if not self._is_made(unit):
                return unit
            self._done[unit.index] = unit
        return None

    def _start(self) -> _Worker:
        """One more process; it has this one's memory, but shares nothing from here on."""
        context = mp.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_in_a_thread, args=(theirs, self._build, os.getpid()), daemon=True
        )
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _listen(self) -> None:
        """Wait until a worker has finished a unit, failed, or died."""
        by_pipe = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(by_pipe)):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                error = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                self._replace(worker)
                continue
            if error is not None:
                raise _ERRORS.get(error[0], CrashError)(error[1])
            unit = worker.given.popleft()
            self._done[unit.index] = unit

    def _replace(self, worker: _Worker) -> None:
        """Take a dead worker's units back.

        Raises:
            TransientError: The first of them has cost too many workers.
        """
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        if worker.given:
            first = worker.given[0]
            self._ended[first.index] += 1
            if self._ended[first.index] >= _PATIENCE:
                raise TransientError(
                    f"shard {first.name} ended {_PATIENCE} workers, the last with exit code "
                    f"{worker.process.exitcode}; was the machine out of memory? make shards "
                    "smaller (interleave.documents_per_shard), or take fewer workers"
                )
        self._again.extendleft(reversed(worker.given))


def _in_a_thread(pipe: Connection, build: Callable[[], Make], parent: int) -> None:
    """The body of a worker, in a thread that was not forked.

    OpenMP keeps a team of threads for each thread that computed. The forked one would wait for ever
    for its team, which stayed behind in the parent; a new one gets a team of its own.
    """
    body = threading.Thread(target=_work, args=(pipe, build, parent), name="worker")
    body.start()
    body.join()


def _work(pipe: Connection, build: Callable[[], Make], parent: int) -> None:
    """Make units until there are no more; the body of a worker."""
    _end_with(parent)
    try:
        make = build()
        while True:
            make(pipe.recv())
            pipe.send(None)
    except EOFError:
        return
    except InterloomError as error:
        pipe.send((type(error).__name__, str(error)))
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        pipe.send(("CrashError", f"{type(error).__name__}: {error}"))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, however it went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
