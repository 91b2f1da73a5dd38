"""Runs that are killed, frozen or left alone, each start in processes of its own.

Imports everything that training needs, once: each rank of a start is forked from a server that has
done nothing else.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn

from interloom.bootstrap import engine_builder
from interloom.config.language_model import LanguageModelConfig
from interloom.config.training import TrainConfig
from interloom.language_model.model import Transformer
from interloom.language_model.task import LanguageModelTask
from interloom.mixture.examples import Example
from interloom.mixture.rows import MemoryRows
from interloom.ports.engine import TrainEngine
from interloom.ports.workspace import Workspace
from interloom.training.checkpoint import (
    Position,
    Progress,
    SavedCheckpoint,
    open_checkpoint,
    seal,
    step_folder,
    write_rank,
)
from interloom.training.loop import CHECKPOINTS, Loss, train
from interloom.training.state import whole_state
from interloom.vocabulary.layout import Marker, VocabularyLayout

Moment = Literal["loss", "freeze", "checkpoint"]

MICROS = 4
"""Micro-batches of a step, over all ranks."""

PATIENCE_S = 30.0
"""A rank that has not moved for so long is given up by the others."""

_LAYOUT = VocabularyLayout(24, 16, "0" * 64, "0" * 64)
_MODEL = LanguageModelConfig(
    hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=32, init_std=0.1
)
_ROW_LENGTH = 48
_ROWS_PER_BATCH = 2
_MEETING_S = 300.0
_GRACE_S = 20.0  # for the others to notice that one is gone
_GAVE_UP = 75


@dataclass(frozen=True, slots=True)
class Kill:
    """Where a run is killed, or a rank frozen: at a micro-batch's loss, or writing a checkpoint."""

    step: int
    micro: int
    moment: Moment

    @property
    def index(self) -> int:
        """The micro-batch over all ranks."""
        return self.step * MICROS + self.micro

    def rank(self, num_ranks: int) -> int:
        """Whom it strikes; a checkpoint is sealed by the first."""
        return 0 if self.moment == "checkpoint" else self.index % num_ranks

    def describe(self) -> str:
        """In words."""
        if self.moment == "checkpoint":
            return f"the checkpoint of step {self.step}"
        place = f"step {self.step}, micro-batch {self.micro} of {MICROS}"
        return f"{place} (frozen)" if self.moment == "freeze" else place


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a run.

    Attributes:
        folder: The run's workspace.
        number: Which start of the run this is.
        config: How it trains.
        seed: Of weights and order.
        kill: Where it is killed; None to let it end.
    """

    folder: Path
    number: int
    config: TrainConfig
    seed: int
    kill: Kill | None = None

    def word(self, rank: int) -> Path:
        """Where a rank says why it gave up."""
        return self.folder / f"gave-up-{self.number}-{rank}.txt"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a start ended that was to be killed.

    Attributes:
        did_die: Whether the rank that was to be killed or frozen was.
        words: Why each other rank gave up, by its own words; empty if it had to be ended.
    """

    did_die: bool
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that was trained to its end, however often it was killed on the way.

    Attributes:
        final: Its last state.
        rows: The rows of each micro-batch that counts.
        starts: How each start ended that was to be killed.
        state: Every parameter and moment of ``final``.
    """

    final: SavedCheckpoint
    rows: tuple[tuple[int, ...], ...]
    starts: tuple["Ending", ...]
    state: Mapping[str, Tensor] = field(repr=False)

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of each step."""
        points = self.final.manifest.progress.curves
        return tuple(point.value for point in points if point.name == "train/loss")


def run_to_end(
    folder: Path, configs: Sequence[TrainConfig], kills: Sequence[Kill], seed: int
) -> Ended:
    """Start a run as often as it takes; each start but the last is killed."""
    folder.mkdir()
    starts: list[Ending] = []
    for number, config in enumerate(configs):
        kill = kills[number] if number < len(kills) else None
        starts += _start(Attempt(folder, number, config, seed, kill))
    final = open_checkpoint(step_folder(folder / "final", configs[-1].num_steps))
    return Ended(final, used_rows(folder, len(configs)), tuple(starts), whole_state(final))


def _start(attempt: Attempt) -> list[Ending]:
    """One start, to its end; gives how it ended if it was to be killed.

    Raises:
        RuntimeError: It was not, and a rank failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "interloom.adapters.deepspeed_engine"])
    ranks = [
        context.Process(target=_train_rank, args=(attempt, rank), daemon=True)
        for rank in range(attempt.config.num_ranks)
    ]
    for process in ranks:
        process.start()
    codes = _end_of(ranks, attempt.kill)
    if attempt.kill is not None:
        return [_ending(attempt, attempt.kill, codes)]
    if any(codes):
        raise RuntimeError(
            f"start {attempt.number} in {attempt.folder} ended with {codes}: {_words(attempt)}"
        )
    return []


def _end_of(ranks: Sequence[BaseProcess], kill: Kill | None) -> list[int | None]:
    """Wait until all have ended, or one has failed, and with it the others; gives their codes.

    A rank that was struck and stands still has None.
    """
    living = list(ranks)
    while living and all(process.exitcode in {None, 0} for process in ranks):
        connection.wait([process.sentinel for process in living])
        living = [process for process in living if process.is_alive()]
    deadline_s = time.monotonic() + _GRACE_S
    for rank, process in enumerate(ranks):
        if kill is None or kill.rank(len(ranks)) != rank:
            process.join(max(0.0, deadline_s - time.monotonic()))
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
        process.join()
    return codes


def _ending(attempt: Attempt, kill: Kill, codes: Sequence[int | None]) -> Ending:
    """What became of a start that was to be killed, by the codes that its ranks ended with."""
    expected = None if kill.moment == "freeze" else -signal.SIGKILL
    return Ending(codes[kill.rank(len(codes))] == expected, _words(attempt))


def _words(attempt: Attempt) -> tuple[str, ...]:
    words = (attempt.word(rank) for rank in range(attempt.config.num_ranks))
    return tuple(path.read_text() for path in words if path.exists())


def _train_rank(attempt: Attempt, rank: int) -> None:
    """One rank's process."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    _meet(attempt, rank)
    built: list[TrainEngine] = []

    def build(module: nn.Module, config: TrainConfig) -> TrainEngine:
        built.append(engine_builder()(module, config))
        return built[0]

    task = _Recorded(attempt, rank)
    if attempt.kill is not None and attempt.kill.moment == "checkpoint" and rank == 0:
        threading.Thread(target=_kill_at_checkpoint, args=(attempt,), daemon=True).start()

    def give_up(error: Exception) -> None:
        attempt.word(rank).write_text(f"{type(error).__name__}: {error}")
        os._exit(_GAVE_UP)  # the interpreter's own end would race with the collectives' threads

    work = Workspace(attempt.folder, patience_s=PATIENCE_S, give_up=give_up)
    try:
        trained = train(task, attempt.config, engine=build, work=work, seed=attempt.seed)
    except Exception as error:
        give_up(error)
        raise
    last, folder = attempt.config.num_steps, attempt.folder / "final"
    write_rank(folder, last, rank, built[0].state(), {})
    built[0].sum_over_ranks({"barrier": 1.0})
    if rank == 0:
        at = Position(last, last * MICROS, MICROS, attempt.seed, 0.0)
        seal(folder, at, Progress(trained.curves), attempt.config.num_ranks)
    built[0].sum_over_ranks({"barrier": 1.0})
    os._exit(0)


def _meet(attempt: Attempt, rank: int) -> None:
    """Join the other ranks of this start by a file."""
    meeting = f"file://{attempt.folder.absolute()}/meeting-{attempt.number}"
    world_size = attempt.config.num_ranks
    distributed.init_process_group(
        "gloo",
        init_method=meeting,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=_MEETING_S),
    )


class _Recorded:
    """A tiny language model whose every use of rows is written down, and which may die."""

    def __init__(self, attempt: Attempt, rank: int) -> None:
        model = Transformer(_MODEL, _LAYOUT.size)
        model.initialise(torch.Generator().manual_seed(attempt.seed))
        self.module: nn.Module = model
        rows = MemoryRows(_examples(), row_length=_ROW_LENGTH, pad=_LAYOUT.marker(Marker.PAD))
        self._task = LanguageModelTask(
            model,
            rows,
            _LAYOUT,
            rows_per_batch=_ROWS_PER_BATCH,
            batches_per_step=MICROS,
            seed=attempt.seed,
        )
        self._kill = attempt.kill
        self._file = (attempt.folder / f"rows-{attempt.number}-{rank}.jsonl").open("a")

    def loss(self, module: nn.Module, index: int) -> Loss:
        """The loss of a micro-batch, or the end."""
        kill = self._kill
        if kill is not None and kill.moment != "checkpoint" and index == kill.index:
            os.kill(os.getpid(), signal.SIGSTOP if kill.moment == "freeze" else signal.SIGKILL)
        loss = self._task.loss(module, index)
        self._file.write(json.dumps({"index": index, "rows": loss.rows}) + "\n")
        self._file.flush()
        return loss


def _kill_at_checkpoint(attempt: Attempt) -> None:
    """Kill this process as soon as a file of the checkpoint is there, before the step counts."""
    assert attempt.kill is not None
    target = step_folder(attempt.folder / CHECKPOINTS, attempt.kill.step)
    while not any(target.glob("*")) and not any(target.glob(".*")):
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)


def used_rows(folder: Path, num_starts: int) -> tuple[tuple[int, ...], ...]:
    """The rows of each micro-batch that counts: of each start, those before the next one's first.

    What was used after the last checkpoint died with the process, and is used again.
    """
    starts: list[dict[int, tuple[int, ...]]] = []
    for number in range(num_starts):
        used: dict[int, tuple[int, ...]] = {}
        for path in sorted(folder.glob(f"rows-{number}-*.jsonl")):
            for line in path.read_text().splitlines():
                record = json.loads(line)
                if record["index"] in used:
                    raise RuntimeError(f"micro-batch {record['index']} was used twice in a start")
                used[record["index"]] = tuple(record["rows"])
        starts.append(used)
    counting: list[tuple[int, tuple[int, ...]]] = []
    for number, used in enumerate(starts):
        later = [min(held) for held in starts[number + 1 :] if held]
        end = min(later, default=sys.maxsize)
        counting += [(index, rows) for index, rows in used.items() if index < end]
    indices = [index for index, _ in counting]
    if len(set(indices)) != len(indices) or sorted(indices) != list(range(len(indices))):
        raise RuntimeError("some micro-batch counts twice, or was left out")
    return tuple((index, *rows) for index, rows in counting)


def _examples() -> list[tuple[str, Example]]:
    """Documents that count up in text and in speech, each by a step of its own."""
    examples = []
    for number in range(240):
        values = (number + np.arange(6 + number * 5 % 17) * (1 + number % 3)).astype(np.int32)
        is_speech = number % 2 == 1
        ids = _LAYOUT.wrap_audio(values % 16) if is_speech else values % 24
        name = "speech" if is_speech else "text"
        examples.append((name, Example.after(f"{number}", ids, 1, "CC0-1.0")))
    return examples
