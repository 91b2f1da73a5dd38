"""One loop for every model: batches by step index, metrics summed over ranks, exact resume."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from interloom.config.training import TrainConfig
from interloom.core.errors import DataError
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineBuilder, TrainEngine
from interloom.ports.workspace import Workspace
from interloom.training.checkpoint import (
    Checkpoint,
    SavedCheckpoint,
    newest_step,
    save_rank,
    seal,
)
from interloom.training.schedule import learning_rate

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Loss:
    """What one micro-batch gave.

    Attributes:
        value: Scalar to minimise.
        sums: Numbers to add up over micro-batches and ranks for the log. A curve ``NAME`` is logged
            for each pair ``NAME`` (a sum) and ``NAME/weight`` (what to divide it by).
    """

    value: "Tensor"
    sums: "Mapping[str, Tensor | float]" = field(default_factory=dict)


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
    """What training gave: on every rank, all the model's weights, and the curves."""

    weights: "Mapping[str, Tensor]"
    curves: tuple[Metric, ...]


def train(
    task: TrainTask,
    config: TrainConfig,
    *,
    engine: EngineBuilder,
    work: Workspace,
    seed: int,
) -> Trained:
    """Train to the last step, from the newest sealed checkpoint in ``work.folder`` if there is one.

    Killed at any moment and called again, it gives the same weights and curves bit for bit, for one
    numeric class and world size; with another number of ranks, and so many fewer or more
    accumulated micro-batches, the same ones but for rounding. A point of a curve is the mean since
    the point before it.

    Raises:
        DataError: The loss stopped being finite; names the step.
    """
    import torch

    torch.manual_seed(seed)
    built = engine(task.module, config)
    folder = work.folder / "checkpoints"
    first, curves, sums = _resume(folder, built)
    for step in range(first, config.num_steps):
        norm = _one_step(task, config, built, step=step, seed=seed, sums=sums)
        if (step + 1) % config.log_every_steps == 0 or step + 1 == config.num_steps:
            curves += _points(built, sums, norm, step)
            sums.clear()
            work.progress.update(step + 1, config.num_steps, f"loss {curves[-2].value:.3f}")
        if (step + 1) % config.checkpoint_every_steps == 0 and step + 1 < config.num_steps:
            _save(folder, built, step + 1, Checkpoint(built.state(), tuple(curves), dict(sums)))
    return Trained(built.weights(), tuple(curves))


def _one_step(
    task: TrainTask,
    config: TrainConfig,
    engine: TrainEngine,
    *,
    step: int,
    seed: int,
    sums: dict[str, float],
) -> float:
    """All micro-batches of one optimizer step on this rank; adds to ``sums``, returns the norm."""
    import torch

    for micro in range(config.gradient_accumulation):
        index = (step * config.gradient_accumulation + micro) * engine.world_size + engine.rank
        torch.manual_seed(seed * 1_000_003 + index)  # dropout is a function of (seed, index)
        loss = task.loss(engine.module, index)
        if not torch.isfinite(loss.value):
            raise DataError(f"the loss is {loss.value.item()} at step {step}, micro-batch {index}")
        engine.backward(loss.value)
        own: dict[str, Tensor | float] = {"loss": loss.value.detach(), "loss/weight": 1.0}
        for name, value in (own | dict(loss.sums)).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return engine.step(learning_rate(config, step))


def _points(engine: TrainEngine, sums: Mapping[str, float], norm: float, step: int) -> list[Metric]:
    """One point of each curve; the loss stands second to last, the gradient norm last.

    A curve that nothing was seen of has no point.
    """
    reduced = engine.sum_over_ranks(sums)
    means = {
        name: value / reduced[f"{name}/weight"]
        for name, value in sorted(reduced.items())
        if reduced.get(f"{name}/weight", 0.0) > 0
    }
    loss = means.pop("loss")
    means |= {"loss": loss, "gradient_norm": norm}
    return [Metric(f"train/{name}", value, step + 1) for name, value in means.items()]


def _save(folder: Path, engine: TrainEngine, step: int, checkpoint: Checkpoint) -> None:
    """Write every rank's part, then seal the step."""
    save_rank(folder, step, engine.rank, checkpoint)
    engine.sum_over_ranks({"barrier": 1.0})
    if engine.rank == 0:
        seal(folder, step, engine.world_size)


def _resume(folder: Path, engine: TrainEngine) -> tuple[int, list[Metric], dict[str, float]]:
    """Load the newest sealed checkpoint: the step to go on with, the curves, the open sums."""
    step = newest_step(folder)
    engine.sum_over_ranks({"barrier": 1.0})  # every rank has looked before any seals a newer one
    if step is None:
        return 0, [], {}
    saved = SavedCheckpoint(folder, step)
    engine.load_state(saved)
    sums = saved.open_sums(engine.rank, engine.world_size)
    return step, list(saved.read(0).curves), sums
