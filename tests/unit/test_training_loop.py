"""Schedule, checkpoints and the loop, with a model of one number."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from interloom.config.training import TrainConfig
from interloom.core.errors import DataError
from interloom.ports.catalog import Metric
from interloom.ports.workspace import Workspace
from interloom.testing.engine import PlainEngine
from interloom.training.checkpoint import Checkpoint, SavedCheckpoint, newest_step, save_rank, seal
from interloom.training.loop import Loss, train
from interloom.training.schedule import learning_rate


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: float) -> torch.Tensor:
        return (self.scale * x - x).square().sum()


class _Task:
    """Learn the factor 1; odd micro-batches are of a rare kind."""

    def __init__(self, bad_index: int = -1) -> None:
        self.module: nn.Module = _Scale()
        self._bad_index = bad_index

    def loss(self, module: nn.Module, index: int) -> Loss:
        value: torch.Tensor = module(1.0)
        if index == self._bad_index:
            value = value * math.nan
        rare = float(index % 4 == 3)
        return Loss(value, {"rare": rare * 7, "rare/weight": rare})


def _config(**changes: object) -> TrainConfig:
    base: dict[str, object] = {"num_steps": 8, "learning_rate": 0.1, "log_every_steps": 2}
    return TrainConfig.model_validate(base | changes)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.7, 0.4, 0.1]),
        ("cosine", [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]),
    ],
)
def test_the_rate_warms_up_and_ends_at_its_final_part(schedule: str, expected: list[float]) -> None:
    config = _config(num_steps=6, learning_rate=1.0, warmup_steps=2, schedule=schedule)

    assert [learning_rate(config, step) for step in range(6)] == pytest.approx(expected)


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps must be under num_steps = 8, got 8"):
        _config(warmup_steps=8)


def test_a_point_is_the_mean_since_the_one_before_and_absent_if_nothing_was_seen(
    tmp_path: Path,
) -> None:
    curves = train(_Task(), _config(), engine=PlainEngine, work=Workspace(tmp_path), seed=0).curves

    rare = [(point.step, point.value) for point in curves if point.name == "train/rare"]
    losses = [point.value for point in curves if point.name == "train/loss"]
    assert rare == [(4, 7.0), (8, 7.0)]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)


def test_a_loss_that_is_not_finite_stops_training_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the loss is nan at step 5, micro-batch 5"):
        train(_Task(5), _config(), engine=PlainEngine, work=Workspace(tmp_path), seed=0)


def test_a_run_killed_between_points_keeps_what_it_had_added_up(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    config = _config(log_every_steps=4, checkpoint_every_steps=3)
    whole = train(_Task(), config, engine=PlainEngine, work=Workspace(tmp_path / "a"), seed=0)

    with pytest.raises(DataError, match="the loss is nan"):
        train(_Task(5), config, engine=PlainEngine, work=Workspace(tmp_path / "b"), seed=0)
    resumed = train(_Task(), config, engine=PlainEngine, work=Workspace(tmp_path / "b"), seed=0)

    assert resumed.curves == whole.curves


def _save(folder: Path, step: int, sums: list[dict[str, float]]) -> None:
    for rank, held in enumerate(sums):
        curves = (Metric("train/loss", 0.5, 1),)
        save_rank(folder, step, rank, Checkpoint({"x": torch.tensor([rank])}, curves, held))


def test_a_step_counts_once_it_is_sealed(tmp_path: Path) -> None:
    _save(tmp_path, 2, [{}])
    seal(tmp_path, 2, 1)
    _save(tmp_path, 4, [{}])

    assert newest_step(tmp_path) == 2

    seal(tmp_path, 4, 1)
    assert newest_step(tmp_path) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_another_number_of_ranks_gets_all_sums_once(tmp_path: Path) -> None:
    _save(tmp_path, 2, [{"loss": 1.0}, {"loss": 2.0, "rare": 4.0}])
    seal(tmp_path, 2, 2)

    saved = SavedCheckpoint(tmp_path, 2)

    assert saved.open_sums(1, 2) == {"loss": 2.0, "rare": 4.0}
    assert saved.open_sums(0, 3) == {"loss": 3.0, "rare": 4.0}
    assert saved.open_sums(2, 3) == {"loss": 0.0, "rare": 0.0}
    assert saved.state(1)["x"].item() == 1


def test_a_changed_checkpoint_is_refused(tmp_path: Path) -> None:
    _save(tmp_path, 2, [{}])
    seal(tmp_path, 2, 1)
    path = tmp_path / "step-00000002" / "rank-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")

    with pytest.raises(DataError, match="is missing or changed since it was written; remove"):
        SavedCheckpoint(tmp_path, 2).read(0)
