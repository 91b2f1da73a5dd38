"""Does a killed run go on as if nothing had happened? Real processes, real kills.

``python -m interloom_flows.resume_trials OPTIONS.json`` trains a tiny language model again and
again, kills it with SIGKILL at seeded random moments, lets it go on, and compares with runs that
nobody disturbed. It prints one JSON line a check. Imports everything that training needs, once:
each attempt is a process that is forked from a server that has done nothing else.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path
from tempfile import TemporaryDirectory
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
from interloom_flows.resuming import LOSS_TOLERANCE, Check, TrialOptions

Moment = Literal["loss", "checkpoint"]

_LAYOUT = VocabularyLayout(24, 16, "0" * 64, "0" * 64)
_MODEL = LanguageModelConfig(
    hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=32, init_std=0.1
)
_ROW_LENGTH = 48
_ROWS_PER_BATCH = 2
_MICROS = 4  # of a step, over all ranks
_SAVE_EVERY = 3
_LIMIT_S = 300.0
_GRACE_S = 2.0  # for the others, when one was killed


@dataclass(frozen=True, slots=True)
class Kill:
    """Where a run is killed: before a micro-batch's loss, or while a checkpoint is written."""

    step: int
    micro: int
    moment: Moment

    @property
    def index(self) -> int:
        """The micro-batch over all ranks."""
        return self.step * _MICROS + self.micro

    def describe(self) -> str:
        """In words."""
        if self.moment == "checkpoint":
            return f"the checkpoint of step {self.step}"
        return f"step {self.step}, micro-batch {self.micro} of {_MICROS}"


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


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that was trained to its end, however often it was killed on the way."""

    final: SavedCheckpoint
    rows: tuple[tuple[int, ...], ...]
    kills: tuple[int | None, ...]
    state: Mapping[str, Tensor] = field(repr=False)

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of each step."""
        points = self.final.manifest.progress.curves
        return tuple(point.value for point in points if point.name == "train/loss")


def main(arguments: Sequence[str]) -> None:
    """Run all trials, and print what each has shown."""
    options = TrialOptions.model_validate_json(Path(arguments[0]).read_bytes())
    with TemporaryDirectory(prefix="interloom-resume-") as folder:
        for check in _trials(options, Path(folder)):
            sys.stdout.write(check.model_dump_json() + "\n")
            sys.stdout.flush()


def _trials(options: TrialOptions, folder: Path) -> Iterator[Check]:
    config = _train_config(options)
    whole = _run(folder / "whole", [config], [], options.seed)
    yield Check(
        name="undisturbed",
        how=f"{config.num_steps} steps of {_MICROS} micro-batches, every row equally often",
        is_good=_is_even(whole.rows),
        found=f"{len(whole.rows)} micro-batches, final loss {whole.losses[-1]:.4f}",
    )
    kills = _kills(options)
    killed = _run(folder / "killed", [config] * (len(kills) + 1), kills, options.seed)
    ranks = f"{options.num_ranks} rank{'s' if options.num_ranks > 1 else ''}"
    yield from _same_checks(f"kill -9 x{len(kills)}, {ranks}", kills, whole, killed)
    yield from _other_ranks(options, folder)


def _same_checks(name: str, kills: Sequence[Kill], whole: Ended, killed: Ended) -> Iterator[Check]:
    """As many ranks: everything is equal bit for bit."""
    did_die = all(code == -signal.SIGKILL for code in killed.kills)
    yield Check(
        name=name,
        how="; ".join(kill.describe() for kill in kills),
        is_good=did_die,
        found=f"{sum(code == -signal.SIGKILL for code in killed.kills)} of {len(kills)} died of it",
    )
    worst = _largest_difference(whole.state, killed.state)
    values = {key: value for key, value in worst.items() if "/" not in key}
    moments = {key: value for key, value in worst.items() if "/" in key}
    for what, found in (("parameters", values), ("optimizer", moments)):
        largest = max(found.values())
        yield Check(
            name=f"{name}: {what}",
            how="bitwise equal to the undisturbed run",
            is_good=largest == 0.0,
            found=f"largest difference {largest:.3g} over {len(found)} tensors",
        )
    yield _rows_check(name, whole, killed)
    curves = killed.final.manifest.progress.curves == whole.final.manifest.progress.curves
    yield Check(
        name=f"{name}: curves",
        how="every point equal",
        is_good=curves,
        found="equal" if curves else "different",
    )


def _other_ranks(options: TrialOptions, folder: Path) -> Iterator[Check]:
    """One rank, then two, then one, at three ZeRO stages: the same rows, nearly the same losses."""
    alone = _train_config(options, num_ranks=1, zero_stage=0)
    pair = _train_config(options, num_ranks=2, zero_stage=2)
    again = _train_config(options, num_ranks=1, zero_stage=3)
    third = options.num_steps // 3
    kills = [Kill(third, 1, "loss"), Kill(2 * third, 2, "loss")]
    whole = _run(folder / "alone", [alone], [], options.seed)
    moved = _run(folder / "moved", [alone, pair, again], kills, options.seed)
    name = "1 -> 2 -> 1 ranks"
    yield Check(
        name=name,
        how="ZeRO 0 -> 2 -> 3; killed at " + "; ".join(kill.describe() for kill in kills),
        is_good=all(code == -signal.SIGKILL for code in moved.kills),
        found=f"ended at step {moved.final.manifest.position.step}",
    )
    yield _rows_check(name, whole, moved)
    pairs = zip(whole.losses, moved.losses, strict=True)
    worst = max(abs(own - other) / own for own, other in pairs)
    yield Check(
        name=f"{name}: losses",
        how=f"within {LOSS_TOLERANCE:g} of the undisturbed run",
        is_good=worst <= LOSS_TOLERANCE,
        found=f"largest relative difference {worst:.2g} over {len(whole.losses)} steps",
    )
    largest = max(_largest_difference(whole.state, moved.state).values())
    yield Check(
        name=f"{name}: parameters",
        how="close to the undisturbed run",
        is_good=largest <= 1e-2,
        found=f"largest difference {largest:.2g}",
    )


def _is_even(used: Sequence[tuple[int, ...]]) -> bool:
    """Whether no row was used again before all others were."""
    counts = Counter(row for _, *rows in used for row in rows)
    return max(counts.values()) - min(counts.values()) <= 1


def _rows_check(name: str, whole: Ended, other: Ended) -> Check:
    """Each row that counts was used once, and by the same step."""
    is_same = sorted(whole.rows) == sorted(other.rows)
    return Check(
        name=f"{name}: rows",
        how="the same rows, exactly once each",
        is_good=is_same,
        found=f"{len(other.rows)} micro-batches, {'equal' if is_same else 'different'}",
    )


def _train_config(
    options: TrialOptions, *, num_ranks: int | None = None, zero_stage: int | None = None
) -> TrainConfig:
    ranks = options.num_ranks if num_ranks is None else num_ranks
    return TrainConfig.model_validate(
        {
            "num_steps": options.num_steps,
            "learning_rate": 0.01,
            "warmup_steps": 2,
            "gradient_accumulation": _MICROS // ranks,
            "num_ranks": ranks,
            "threads_per_rank": 1,
            "zero_stage": options.zero_stage if zero_stage is None else zero_stage,
            "checkpoint_every_steps": _SAVE_EVERY,
            "log_every_steps": 1,
        }
    )


def _kills(options: TrialOptions) -> list[Kill]:
    """Seeded random places, in the order in which the run comes by; the last hits a checkpoint."""
    draw = np.random.Generator(np.random.Philox(key=options.seed))
    steps = sorted(draw.choice(np.arange(1, options.num_steps), options.num_kills, replace=False))
    kills = [Kill(int(step), int(draw.integers(_MICROS)), "loss") for step in steps]
    saved = kills[-1].step // _SAVE_EVERY * _SAVE_EVERY
    is_new = len(kills) > 1 and saved > kills[-2].step
    return [*kills[:-1], Kill(saved, 0, "checkpoint")] if is_new else kills


def _run(folder: Path, configs: Sequence[TrainConfig], kills: Sequence[Kill], seed: int) -> Ended:
    """Start a run as often as it takes; each start but the last is killed."""
    folder.mkdir()
    codes: list[int | None] = []
    for number, config in enumerate(configs):
        kill = kills[number] if number < len(kills) else None
        attempt = Attempt(folder, number, config, seed, kill)
        codes += _start(attempt)
    final = open_checkpoint(step_folder(folder / "final", configs[-1].num_steps))
    return Ended(final, _used_rows(folder, len(configs)), tuple(codes), whole_state(final))


def _start(attempt: Attempt) -> list[int | None]:
    """One start, to its end; gives how the first rank ended if it was to be killed.

    Raises:
        RuntimeError: A rank ended otherwise than it should.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "interloom.adapters.deepspeed_engine"])
    ranks = [
        context.Process(target=_train_rank, args=(attempt, rank), daemon=True)
        for rank in range(attempt.config.num_ranks)
    ]
    for process in ranks:
        process.start()
    deadline_s = time.monotonic() + _LIMIT_S
    while any(process.is_alive() for process in ranks) and time.monotonic() < deadline_s:
        connection.wait([process.sentinel for process in ranks if process.is_alive()], timeout=1)
        if any(process.exitcode for process in ranks):
            break  # the first that dies takes the others along, as it does under torchrun
    for process in ranks:
        process.join(_GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
    codes = [process.exitcode for process in ranks]
    if attempt.kill is None:
        if any(codes):
            raise RuntimeError(f"start {attempt.number} in {attempt.folder} ended with {codes}")
        return []
    return [-signal.SIGKILL if -signal.SIGKILL in codes else codes[0]]


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
    work = Workspace(attempt.folder)
    trained = train(task, attempt.config, engine=build, work=work, seed=attempt.seed)
    last, folder = attempt.config.num_steps, attempt.folder / "final"
    write_rank(folder, last, rank, built[0].state(), {})
    built[0].sum_over_ranks({"barrier": 1.0})
    if rank == 0:
        at = Position(last, last * _MICROS, _MICROS, attempt.seed, 0.0)
        seal(folder, at, Progress(trained.curves), attempt.config.num_ranks)
    built[0].sum_over_ranks({"barrier": 1.0})
    os._exit(0)  # the interpreter's own end would race with the threads of the collectives


def _meet(attempt: Attempt, rank: int) -> None:
    """Join the other ranks of this start by a file."""
    meeting = f"file://{attempt.folder.absolute()}/meeting-{attempt.number}"
    world_size = attempt.config.num_ranks
    distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
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
            batches_per_step=_MICROS,
            seed=attempt.seed,
        )
        self._kill = attempt.kill
        self._file = (attempt.folder / f"rows-{attempt.number}-{rank}.jsonl").open("a")

    def loss(self, module: nn.Module, index: int) -> Loss:
        """The loss of a micro-batch, or the end."""
        kill = self._kill
        if kill is not None and kill.moment == "loss" and index == kill.index:
            os.kill(os.getpid(), signal.SIGKILL)
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


def _used_rows(folder: Path, num_starts: int) -> tuple[tuple[int, ...], ...]:
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


def _largest_difference(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> dict[str, float]:
    """By tensor; not a number counts as infinite."""
    if first.keys() != second.keys():
        raise RuntimeError("the runs saved different tensors")
    found = {}
    for name, values in first.items():
        gap = float((values - second[name]).abs().max())
        found[name] = gap if gap == gap else float("inf")  # noqa: PLR0124 - not a number
    return found


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


if __name__ == "__main__":
    main(sys.argv[1:])
