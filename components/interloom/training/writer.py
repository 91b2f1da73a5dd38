"""Checkpoints are written while training goes on; at most one at a time."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from interloom.core.errors import TransientError
from interloom.ports.engine import EngineState
from interloom.training.checkpoint import (
    Position,
    Progress,
    has_all_ranks,
    retain,
    seal,
    sealed_steps,
    step_folder,
    write_rank,
)

_POLL_S = 0.02
_ENDING_S = 5.0  # for the other ranks' parts, when this one only waits to end


@dataclass(frozen=True, slots=True)
class Rules:
    """Where checkpoints go and which are kept.

    Attributes:
        folder: Of all steps.
        keep: So many of the newest.
        keep_every: Besides, steps that are a multiple of this.
        patience_s: How long the first rank waits for the parts of the others.
    """

    folder: Path
    keep: int = 2
    keep_every: int | None = None
    patience_s: float = 600.0


class CheckpointWriter:
    """One rank's writer: a thread for each checkpoint, joined before the next."""

    def __init__(self, rules: Rules, rank: int, world_size: int) -> None:
        """Take the rules and this rank's place."""
        self._rules = rules
        self._rank = rank
        self._world_size = world_size
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._is_ending = threading.Event()

    def save(
        self,
        state: EngineState,
        sums: Mapping[str, float],
        position: Position,
        progress: Progress,
    ) -> None:
        """Begin to write; waits for the checkpoint before if it is not done.

        Raises:
            TransientError: The one before could not be written.
        """
        self.finish()
        self._thread = threading.Thread(
            target=self._write,
            args=(state, sums, position, progress),
            name=f"checkpoint-{position.step}",
        )
        self._thread.start()

    def finish(self) -> None:
        """Wait until what was begun is sealed.

        Raises:
            TransientError: It could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Wait until what was begun is written, not long for ranks that may be gone.

        An error of it is the business of ``check``.
        """
        if self._thread is not None:
            self._is_ending.set()
            self._thread.join()

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did; never waits.

        Raises:
            TransientError: A checkpoint could not be written; names the last good one.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(
        self,
        state: EngineState,
        sums: Mapping[str, float],
        position: Position,
        progress: Progress,
    ) -> None:
        try:
            write_rank(self._rules.folder, position.step, self._rank, state, sums)
            if self._rank == 0:
                self._wait_for_others(position.step)
                seal(self._rules.folder, position, progress, self._world_size)
                retain(self._rules.folder, newest=self._rules.keep, every=self._rules.keep_every)
        except OSError as error:
            self._clear(position.step)
            self._error = TransientError(self._explain(position.step, error))
        except Exception as error:  # noqa: BLE001 - handed to the thread that trains
            self._error = error

    def _wait_for_others(self, step: int) -> None:
        limit_s, began_s = self._rules.patience_s, time.monotonic()
        while missing := has_all_ranks(self._rules.folder, step, self._world_size):
            if self._is_ending.is_set():
                limit_s = min(limit_s, _ENDING_S)
            if time.monotonic() > began_s + limit_s:
                raise TransientError(
                    f"the checkpoint of step {step} is not whole: after {limit_s:g} s the part of "
                    f"rank {', '.join(map(str, missing))} is not written"
                )
            time.sleep(_POLL_S)

    def _clear(self, step: int) -> None:
        """Give back the space of this rank's unfinished part."""
        for path in step_folder(self._rules.folder, step).glob(f"*rank-{self._rank}.*"):
            path.unlink(missing_ok=True)

    def _explain(self, step: int, error: OSError) -> str:
        good = sealed_steps(self._rules.folder)
        kept = f"that of step {good[0]} is whole and kept" if good else "none was written before"
        return (
            f"the checkpoint of step {step} could not be written to {self._rules.folder}: {error}; "
            f"{kept}; make room and run again, it goes on from there"
        )
