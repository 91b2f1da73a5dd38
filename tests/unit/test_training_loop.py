"""Schedule, checkpoints and the loop, with a model of one number."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from interloom.config.training import TrainConfig
from interloom.core.errors import DataError, MissingError, PreemptedError
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineState, Piece
from interloom.ports.workspace import Workspace
from interloom.testing.engine import PlainEngine
from interloom.training.checkpoint import (
    Position,
    Progress,
    open_checkpoint,
    remove_unsealed,
    retain,
    seal,
    sealed_steps,
    write_rank,
)
from interloom.training.loop import Loss, Trained, train
from interloom.training.schedule import learning_rate
from interloom.training.spikes import SpikeDetector
from interloom.training.telemetry import Meter


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: float) -> torch.Tensor:
        return (self.scale * x - x).square().sum()


class _Task:
    """Learn the factor 1; odd micro-batches are of a rare kind."""

    def __init__(self, *bad: int, leaps_at: int = -1, ended_at: int = -1) -> None:
        self.module: nn.Module = _Scale()
        self._bad = bad
        self._leaps_at = leaps_at
        self._ended_at = ended_at

    def loss(self, module: nn.Module, index: int) -> Loss:
        value: torch.Tensor = module(1.0)
        if index in self._bad:
            value = value * math.nan
        if index == self._leaps_at:
            value = value * 1000
        if index == self._ended_at:
            os.kill(os.getpid(), signal.SIGTERM)
        rare = float(index % 4 == 3)
        sums = {"rare": rare * 7, "rare/weight": rare}
        return Loss(value, sums, rows=(10 * index,), num_positions=4, flops=1e3)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _train(folder: Path, task: _Task, **changes: object) -> Trained:
    return train(task, _config(**changes), engine=PlainEngine, work=Workspace(folder), seed=0)


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


def _state(*values: float, start: int = 0, length: int = 4) -> EngineState:
    piece = Piece("w", "value", start, torch.tensor(values))
    buffers = {"seen": torch.tensor([len(values)])}
    return EngineState({"w": (length,)}, {}, (piece,), buffers)


def _at(step: int) -> Position:
    return Position(step, 2 * step, 2, 0, 0.1)


def _two_ranks(folder: Path, step: int) -> None:
    write_rank(folder, step, 0, _state(1, 2), {"loss": 1.0})
    write_rank(folder, step, 1, _state(3, 4, start=2), {"loss": 2.0, "rare": 4.0})
    seal(folder, _at(step), Progress((Metric("train/loss", 0.5, 1),)), 2)


def test_a_step_counts_once_it_is_sealed(tmp_path: Path) -> None:
    _two_ranks(tmp_path, 2)
    write_rank(tmp_path, 4, 0, _state(1, 2, 3, 4), {})

    assert sealed_steps(tmp_path) == [2]

    remove_unsealed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_step_that_lacks_values_is_not_sealed(tmp_path: Path) -> None:
    write_rank(tmp_path, 2, 0, _state(1, 2), {})

    with pytest.raises(DataError, match="value of 'w' has 2 of 4 values"):
        seal(tmp_path, _at(2), Progress(), 1)
    assert sealed_steps(tmp_path) == []


def test_old_steps_are_removed_by_rule(tmp_path: Path) -> None:
    for step in (100, 150, 200, 250, 300):
        write_rank(tmp_path, step, 0, _state(1, 2, 3, 4), {})
        seal(tmp_path, _at(step), Progress(), 1)

    retain(tmp_path, newest=2, every=100)

    assert sealed_steps(tmp_path) == [300, 250, 200, 100]


def test_any_number_of_ranks_gets_all_values_and_all_sums_once(tmp_path: Path) -> None:
    _two_ranks(tmp_path, 2)

    saved = open_checkpoint(tmp_path / "step-00000002")

    assert saved.read("w", "value", 1, 4).tolist() == [2, 3, 4]
    assert saved.buffers(1)["seen"].item() == 2
    assert saved.open_sums(1, 2) == {"loss": 2.0, "rare": 4.0}
    assert saved.open_sums(0, 3) == {"loss": 3.0, "rare": 4.0}
    assert saved.open_sums(2, 3) == {"loss": 0.0, "rare": 0.0}
    assert saved.manifest.position == _at(2)


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no whole checkpoint at .*step-00000200"):
        open_checkpoint(tmp_path / "step-00000200")


def _damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    match how:
        case "bits":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "cut":
            path.write_bytes(data[:-3])
        case _:
            path.unlink()


DAMAGE = [("bits", "has changed"), ("cut", "bytes, expected"), ("gone", "is missing")]


@pytest.mark.parametrize(("how", "words"), DAMAGE)
def test_a_damaged_checkpoint_is_never_a_start_from_zero(
    how: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="the loss is nan"):
        _train(tmp_path, _Task(5), checkpoint_every_steps=4)
    _damage(tmp_path / "checkpoints" / "step-00000004" / "rank-0.safetensors", how)

    with pytest.raises(DataError, match=rf"(?s)no checkpoint in .* is whole: .*{words}.*restore"):
        _train(tmp_path, _Task(), checkpoint_every_steps=4)


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one_that_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = _train(_made(tmp_path / "a"), _Task())
    with pytest.raises(DataError, match="the loss is nan"):
        _train(_made(tmp_path / "b"), _Task(5), checkpoint_every_steps=2)
    _damage(tmp_path / "b" / "checkpoints" / "step-00000004" / "rank-0.safetensors", "bits")

    resumed = _train(tmp_path / "b", _Task(), checkpoint_every_steps=2)

    assert resumed.curves == whole.curves
    assert "passed over a damaged checkpoint" in caplog.text
    assert (tmp_path / "b" / "checkpoints" / "damaged-step-00000004").is_dir()


def test_a_checkpoint_of_another_seed_or_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the loss is nan"):
        _train(tmp_path, _Task(5), checkpoint_every_steps=2)

    with pytest.raises(DataError, match="rows would be repeated or left out"):
        _train(tmp_path, _Task(), checkpoint_every_steps=2, gradient_accumulation=2)


def test_what_was_fine_before_a_loss_that_is_not_finite_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is nan at step 5, micro-batch 5: row 50; the last good"):
        _train(tmp_path, _Task(5), checkpoint_every_steps=2)

    assert sealed_steps(tmp_path / "checkpoints") == [4, 2]


def test_a_step_that_is_not_finite_is_left_out_if_the_recipe_says_so(tmp_path: Path) -> None:
    trained = _train(tmp_path, _Task(5), on_nonfinite="skip")

    skipped = [point.step for point in trained.curves if point.name == "train/skipped"]
    assert skipped == [6]
    assert math.isfinite(trained.weights["scale"].item())


def test_too_many_steps_left_out_in_a_row_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="11 steps in a row were left out, up to step 10"):
        _train(tmp_path, _Task(*range(30)), num_steps=30, on_nonfinite="skip")


@pytest.mark.parametrize("policy", ["report", "skip"])
def test_a_spike_names_its_rows(policy: str, tmp_path: Path) -> None:
    trained = _train(
        tmp_path, _Task(leaps_at=30), num_steps=40, on_spike=policy, learning_rate=0.01
    )

    spikes = {point.name for point in trained.curves if point.step == 31} - {"train/loss"}
    assert "train/spike" in spikes
    assert "train/spike/row/300" in spikes
    assert ("train/skipped" in spikes) == (policy == "skip")
    assert [p.step for p in trained.curves if p.name == "train/spike"] == [31]


def test_a_spike_stops_the_run_if_the_recipe_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"leapt to .* at step 30, .* worst micro-batch is row 300"):
        _train(tmp_path, _Task(leaps_at=30), num_steps=40, on_spike="stop", learning_rate=0.01)


def test_a_resumed_run_judges_a_spike_as_the_whole_one_did(tmp_path: Path) -> None:
    changes = {"num_steps": 40, "learning_rate": 0.01, "checkpoint_every_steps": 28}
    whole = _train(_made(tmp_path / "a"), _Task(leaps_at=30), **changes)
    with pytest.raises(DataError, match="the loss is nan"):
        _train(_made(tmp_path / "b"), _Task(29, leaps_at=30), **changes)

    assert _train(tmp_path / "b", _Task(leaps_at=30), **changes).curves == whole.curves


def test_the_detector_knows_a_leap_from_noise() -> None:
    noise = np.random.default_rng(0).normal(3.0, 0.1, 400)
    detector = SpikeDetector(10.0)

    assert not any(detector.excess(float(loss)) for loss in noise)
    assert detector.excess(6.0) > 10


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_good_checkpoint_fault(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; import torch;"
        "from interloom.training.checkpoint import Position, Progress, sealed_steps;"
        "from interloom.ports.engine import EngineState, Piece;"
        "from interloom.training.writer import CheckpointWriter, Rules;"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from interloom.core.errors import TransientError;"
        "folder = Path(sys.argv[1]); writer = CheckpointWriter(Rules(folder), 0, 1);"
        "piece = Piece('w', 'value', 0, torch.zeros(100_000));"
        "state = EngineState({'w': (100_000,)}, {}, (piece,), {});"
        "save = lambda n: (writer.save(state, {}, Position(n, n, 1, 0, 0.1), Progress()));"
        "save(1); writer.finish();"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); save(2);\n"
        "try: writer.finish()\n"
        "except TransientError as error: print(error)\n"
        "print(sealed_steps(folder), sorted(p.name for p in folder.glob('step-*2/*')))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )

    said, kept = done.stdout.splitlines()
    assert "the checkpoint of step 2 could not be written" in said
    assert "that of step 1 is whole and kept" in said
    assert kept == "[1] []"


def test_told_to_end_it_saves_and_goes_on_later(tmp_path: Path) -> None:
    whole = _train(_made(tmp_path / "a"), _Task())

    with pytest.raises(PreemptedError, match="saved at step 5 of 8: run again"):
        _train(_made(tmp_path / "b"), _Task(ended_at=4))

    assert sealed_steps(tmp_path / "b" / "checkpoints") == [5]
    assert _train(tmp_path / "b", _Task()).curves == whole.curves
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_speed_and_memory_are_told_apart_from_what_is_computed(tmp_path: Path) -> None:
    trained = _train(tmp_path, _Task())

    names = {point.name for point in trained.telemetry}
    assert names == {
        "telemetry/data_wait_share",
        "telemetry/mfu",
        "telemetry/peak_memory_bytes",
        "telemetry/steps_wall_s",
        "telemetry/tokens_per_s",
    }
    assert not any(point.name.startswith("telemetry/") for point in trained.curves)


def test_the_meter_divides_by_the_time_that_passed() -> None:
    times = iter([10.0, 14.0])
    meter = Meter(lambda: next(times))
    meter.add(positions=800, flops=2e9, data_wait_s=1.0)

    points = meter.points(PlainEngine(_Scale(), _config()), 20, lambda: 1e9)

    told = {point.name.removeprefix("telemetry/"): point.value for point in points}
    assert told["tokens_per_s"] == 200
    assert told["mfu"] == 0.5
    assert told["data_wait_share"] == 0.25
