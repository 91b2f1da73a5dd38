"""One loop for every model: batches by step index, metrics summed over ranks, exact resume."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from interloom.config.training import TrainConfig
from interloom.core.errors import DataError, PreemptedError, TransientError
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineBuilder, TrainEngine
from interloom.ports.workspace import Workspace
from interloom.training.checkpoint import Position, Progress
from interloom.training.ending import EndRequest, listening
from interloom.training.resume import find_checkpoint
from interloom.training.schedule import learning_rate
from interloom.training.spikes import SpikeDetector
from interloom.training.telemetry import Meter, peak_flops_per_s
from interloom.training.watch import NEXT, Watch, watching
from interloom.training.writer import CheckpointWriter, Rules

if TYPE_CHECKING:
    from torch import Tensor, nn

CHECKPOINTS = "checkpoints"
_BURIAL_S = 0.5  # the connections of a process close before the process is gone
_MOST_SKIPPED = 10  # in a row; then something is wrong with more than a few rows


@dataclass(frozen=True, slots=True)
class Loss:
    """What one micro-batch gave.

    Attributes:
        value: Scalar to minimise.
        sums: Numbers to add up over micro-batches and ranks for the log. A curve ``NAME`` is logged
            for each pair ``NAME`` (a sum) and ``NAME/weight`` (what to divide it by).
        late_sums: The same, known only once the gradient was computed.
        rows: The numbers of the rows it was made of, to name them when they do harm.
        num_positions: Tokens that went through the model.
        flops: Operations of the model for them, forward and backward.
        data_wait_s: Time in which nothing but its data was waited for.
    """

    value: "Tensor"
    sums: "Mapping[str, Tensor | float]" = field(default_factory=dict)
    late_sums: "Callable[[], Mapping[str, Tensor | float]]" = dict
    rows: tuple[int, ...] = ()
    num_positions: int = 0
    flops: float = 0.0
    data_wait_s: float = 0.0


class TrainTask(Protocol):
    """A model and its examples. Micro-batch ``index`` is a pure function of the index.

    Indices run over ``(step * gradient_accumulation + micro) * world_size + rank``: the
    same ones are seen for any split into micro-batches and ranks.
    """

    @property
    def module(self) -> "nn.Module":
        """What is trained; calling it is left to ``loss``."""
        ...

    def loss(self, module: "nn.Module", index: int) -> Loss:
        """The loss of micro-batch ``index``, by calling ``module``.

        Draws everything random (crop, dropout, noise) from ``(seed, index)``.
        """
        ...


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gave: on every rank, all the model's weights, the curves, and the speed."""

    weights: "Mapping[str, Tensor]"
    curves: tuple[Metric, ...]
    telemetry: tuple[Metric, ...] = ()


def train(
    task: TrainTask,
    config: TrainConfig,
    *,
    engine: EngineBuilder,
    work: Workspace,
    seed: int,
) -> Trained:
    """Train to the last step, from the newest whole checkpoint in ``work.folder`` if there is one.

    Killed at any moment and called again, it gives the same weights and curves bit for bit, for one
    numeric class and world size; with another number of ranks, and so many fewer or more
    accumulated micro-batches, the same ones but for rounding. A point of a curve is the mean since
    the point before it.

    Raises:
        DataError: A loss or gradient stopped being finite, or leapt, and the recipe says to stop;
            names the rows. Or a checkpoint is damaged, or of another model or batch.
        PreemptedError: The process was told to end; the state is saved.
        TransientError: A rank died or hangs, or a checkpoint could not be written.
    """
    import torch

    torch.manual_seed(seed)
    built = engine(task.module, config)
    watch = Watch(work.folder / "ranks", built.rank, built.world_size)
    with watching(watch, work.patience_s, work.give_up), listening() as ending:
        run = _Run(
            task=task,
            config=config,
            engine=built,
            work=work,
            seed=seed,
            watch=watch,
            ending=ending,
            writer=CheckpointWriter(_rules(config, work), built.rank, built.world_size),
            spikes=SpikeDetector(config.spike_deviations),
        )
        try:
            run.resume()
            run.train()
            return Trained(built.weights(), tuple(run.curves), tuple(run.telemetry))
        except RuntimeError as error:
            raise _blamed(error, built, watch) from error
        finally:
            run.writer.close()


@dataclass(slots=True)
class _Run:
    """One rank's training, between steps."""

    task: TrainTask
    config: TrainConfig
    engine: TrainEngine
    work: Workspace
    seed: int
    watch: Watch
    ending: EndRequest
    writer: CheckpointWriter
    spikes: SpikeDetector
    meter: Meter = field(default_factory=Meter)
    peak: Callable[[], float] = field(default_factory=lambda: cache(peak_flops_per_s))
    first: int = 0
    num_skipped: int = 0
    curves: list[Metric] = field(default_factory=list)
    telemetry: list[Metric] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where checkpoints are."""
        return self.work.folder / CHECKPOINTS

    @property
    def micros_per_step(self) -> int:
        """Micro-batches of a step over all ranks."""
        return self.config.gradient_accumulation * self.engine.world_size

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if any was ever written.

        Raises:
            DataError: All are damaged, or of another model, seed or batch.
        """
        saved = find_checkpoint(self.folder, self.engine)
        if saved is None:
            return
        at, progress = saved.manifest.position, saved.manifest.progress
        asked = {"seed": self.seed, "micro_batches_per_step": self.micros_per_step}
        held = {"seed": at.seed, "micro_batches_per_step": at.micro_batches_per_step}
        if asked != held:
            raise DataError(
                f"{saved.folder} was written with {held}, this run has {asked}: rows would be "
                "repeated or left out; keep the seed, and gradient_accumulation x num_ranks"
            )
        self.engine.load_state(saved)
        self.first = at.step
        self.curves, self.telemetry = list(progress.curves), list(progress.telemetry)
        self.spikes = SpikeDetector(self.config.spike_deviations, progress.recent_losses)
        self.sums = saved.open_sums(self.engine.rank, self.engine.world_size)

    def train(self) -> None:
        """All steps that are left."""
        config = self.config
        for step in range(self.first, config.num_steps):
            norm, must_end = self.step(step)
            is_last = step + 1 == config.num_steps
            if (step + 1) % config.log_every_steps == 0 or is_last:
                self.log(norm, step + 1)
            self.writer.check()
            if is_last:
                break
            if must_end or (step + 1) % config.checkpoint_every_steps == 0:
                self.save(step + 1)
            if must_end:
                self.writer.finish()
                self.engine.sum_over_ranks({"barrier": 1.0})  # the first rank has sealed it
                raise PreemptedError(
                    f"told to end; saved at step {step + 1} of {config.num_steps}: run again, and "
                    "it goes on from there"
                )
        self.writer.finish()

    def step(self, step: int) -> tuple[float, bool]:
        """One optimizer step; gives the gradient's norm, and whether some rank must end."""
        import torch

        losses: dict[str, float] = {}
        rows: dict[int, tuple[int, ...]] = {}
        for micro in range(self.config.gradient_accumulation):
            place = micro * self.engine.world_size + self.engine.rank
            index = step * self.micros_per_step + place
            torch.manual_seed(self.seed * 1_000_003 + index)  # dropout is a function of both
            self.watch.at(step, micro, "loss")
            loss = self.task.loss(self.engine.module, index)
            losses[f"{place:06d}"] = float(loss.value.detach())
            rows[place] = loss.rows
            self._refuse_unless_finite(losses[f"{place:06d}"], step, index, loss)
            self.watch.at(step, micro, "backward")
            self.engine.backward(loss.value)
            self._add(loss)
        self.watch.at(step, self.config.gradient_accumulation, "step")
        every = self._over_ranks(losses)
        is_skipped = self._judge(step, every, rows)
        rate = learning_rate(self.config, step)
        norm = self.engine.step(rate, is_skipped=is_skipped)
        self._judge_norm(norm, step, is_skipped=is_skipped)
        return norm, every["end"] > 0

    def log(self, norm: float, step: int) -> None:
        """One point of each curve; the loss stands second to last, the gradient norm last."""
        reduced = self.engine.sum_over_ranks(self.sums)
        self.sums.clear()
        means = {
            name: value / reduced[f"{name}/weight"]
            for name, value in sorted(reduced.items())
            if reduced.get(f"{name}/weight", 0.0) > 0
        }
        means["loss"] = means.pop("loss", math.nan)  # none, if every step was left out
        means["gradient_norm"] = norm
        self.curves += [
            Metric(f"train/{name}", value, step)
            for name, value in means.items()
            if math.isfinite(value)
        ]
        self.telemetry += self.meter.points(self.engine, step, self.peak)
        note = f"loss {means['loss']:.3f}"
        self.work.progress.update(step, self.config.num_steps, note)

    def save(self, step: int) -> None:
        """Begin to write the checkpoint of so many steps."""
        self.watch.at(step, 0, "checkpoint")
        position = Position(
            step=step,
            next_index=step * self.micros_per_step,
            micro_batches_per_step=self.micros_per_step,
            seed=self.seed,
            learning_rate=learning_rate(self.config, step),
        )
        progress = Progress(tuple(self.curves), tuple(self.telemetry), self.spikes.recent)
        self.writer.save(self.engine.state(), dict(self.sums), position, progress)

    def _add(self, loss: Loss) -> None:
        """Add a micro-batch to what the next point shows; nothing of one that is not finite."""
        self.meter.add(positions=loss.num_positions, flops=loss.flops, data_wait_s=loss.data_wait_s)
        value = float(loss.value.detach())
        is_good = math.isfinite(value)
        own: dict[str, Tensor | float] = {"loss": value, "loss/weight": 1.0}
        for name, number in (own | dict(loss.sums) | dict(loss.late_sums())).items():
            self.sums[name] = self.sums.get(name, 0.0) + (float(number) if is_good else 0.0)

    def _over_ranks(self, losses: Mapping[str, float]) -> dict[str, float]:
        """The loss of every micro-batch of the step, and ``end``: how many ranks must end."""
        own = {f"{place:06d}": 0.0 for place in range(self.micros_per_step)} | dict(losses)
        return self.engine.sum_over_ranks(own | {"end": float(self.ending.is_made)})

    def _refuse_unless_finite(self, value: float, step: int, index: int, loss: Loss) -> None:
        if math.isfinite(value) or self.config.on_nonfinite == "skip":
            return
        sources = sorted(
            name.removeprefix("loss/source/").removesuffix("/weight")
            for name, number in loss.sums.items()
            if name.startswith("loss/source/") and name.endswith("/weight") and float(number) > 0
        )
        of = f" of {', '.join(sources)}" if sources else ""
        named = f": {_named(loss.rows)}{of}" if loss.rows else ""
        raise DataError(
            f"the loss is {value} at step {step}, micro-batch {index}{named}; the last good "
            f"checkpoint is kept in {self.folder}"
        )

    def _judge(
        self, step: int, every: Mapping[str, float], rows: Mapping[int, tuple[int, ...]]
    ) -> bool:
        """Whether to leave the step out; names the rows of a spike.

        Raises:
            DataError: The step is a spike, and the recipe says to stop; or too many were left out.
        """
        values = [every[f"{place:06d}"] for place in range(self.micros_per_step)]
        if not all(map(math.isfinite, values)):
            self._count_skipped(step, "losses that are not finite")
            return True
        mean = sum(values) / len(values)
        excess = self.spikes.excess(mean)
        if not excess:
            self.num_skipped = 0
            return False
        worst = max(range(len(values)), key=values.__getitem__)
        named = self._rows_of(worst, rows)
        self.curves.append(Metric("train/spike", excess, step + 1))
        self.curves += [Metric(f"train/spike/row/{row}", values[worst], step + 1) for row in named]
        if self.config.on_spike == "stop":
            raise DataError(
                f"the loss leapt to {mean:.4f} at step {step}, {excess:.0f} deviations above the "
                f"last steps: the worst micro-batch is {_named(named)}; look at them, or set "
                "on_spike to report or skip"
            )
        if self.config.on_spike == "skip":
            self._count_skipped(step, "spikes")
        return self.config.on_spike == "skip"

    def _rows_of(self, place: int, rows: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
        """The rows of one micro-batch of the step, told to all ranks by the one that has them."""
        own = rows.get(place, ())
        count = self.engine.sum_over_ranks({"rows": float(len(own))})["rows"]
        told = {f"{at:06d}": float(own[at]) if at < len(own) else 0.0 for at in range(round(count))}
        return tuple(round(value) for _, value in sorted(self.engine.sum_over_ranks(told).items()))

    def _judge_norm(self, norm: float, step: int, *, is_skipped: bool) -> None:
        """Stop at a gradient that is not finite, or count the step that was left out for it."""
        if math.isfinite(norm) or is_skipped:
            return
        first = step * self.micros_per_step
        what = f"the gradient's norm is {norm} at step {step}, micro-batches {first} to "
        what += f"{first + self.micros_per_step - 1}"
        if self.config.on_nonfinite == "stop":
            raise DataError(f"{what}; the last good checkpoint is kept in {self.folder}")
        self._count_skipped(step, "gradients that are not finite")

    def _count_skipped(self, step: int, why: str) -> None:
        self.num_skipped += 1
        self.curves.append(Metric("train/skipped", 1.0, step + 1))
        if self.num_skipped > _MOST_SKIPPED:
            raise DataError(
                f"{self.num_skipped} steps in a row were left out, up to step {step}, for {why}; "
                f"the last good checkpoint is kept in {self.folder}"
            )


def _rules(config: TrainConfig, work: Workspace) -> Rules:
    """Where checkpoints go and which are kept."""
    folder = work.folder / CHECKPOINTS
    return Rules(folder, config.keep_checkpoints, config.keep_every_steps, work.patience_s)


def _named(rows: tuple[int, ...]) -> str:
    """Rows in words."""
    return f"row{'s' if len(rows) != 1 else ''} {', '.join(map(str, rows))}"


def _blamed(error: RuntimeError, engine: TrainEngine, watch: Watch) -> Exception:
    """An error of a collective names a connection; say which rank it was. Others stay."""
    from torch import distributed

    words = str(error).lower()
    is_of_ranks = isinstance(error, distributed.DistError) or "gloo" in words or "nccl" in words
    if engine.world_size == 1 or not is_of_ranks:
        return error
    time.sleep(_BURIAL_S)
    return TransientError(
        f"the ranks lost each other: {watch.diagnose(math.inf)}; {NEXT} ({error})"
    )
