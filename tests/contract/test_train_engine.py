"""What every training engine must do."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from interloom.adapters.deepspeed_engine import build_deepspeed_engine, deepspeed_settings
from interloom.config.training import TrainConfig
from interloom.core.errors import ConfigError, DataError
from interloom.ports.engine import EngineBuilder, EngineState, Piece, TrainEngine
from interloom.ports.workspace import Workspace
from interloom.testing.engine import PlainEngine
from interloom.training.loop import Loss, train
from interloom.training.state import JoinedState, whole_state


class _Net(nn.Module):
    """A tiny regression with a buffer and a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 1)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        out: Tensor = self.second(torch.tanh(self.first(x)))
        return out


class _Task:
    """Learn the sum of four numbers; batch ``index`` is made from the index."""

    def __init__(self) -> None:
        self.module: nn.Module = _Net()

    def loss(self, module: nn.Module, index: int) -> Loss:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(index))
        dtype = next(module.parameters()).dtype
        error = (module(x.to(dtype)).squeeze(1).float() - x.sum(1)).square().mean()
        return Loss(error, {"error": error.item() * 16, "error/weight": 16.0})


def _config(**changes: object) -> TrainConfig:
    base = {"num_steps": 8, "learning_rate": 0.01, "log_every_steps": 1, "gradient_clip": 0.5}
    return TrainConfig.model_validate(base | changes)


def _losses(builder: EngineBuilder, config: TrainConfig, folder: Path) -> list[float]:
    folder.mkdir(exist_ok=True)
    curves = train(_Task(), config, engine=builder, work=Workspace(folder), seed=3).curves
    return [point.value for point in curves if point.name == "train/loss"]


VARIANTS = [
    pytest.param(PlainEngine, {}, id="plain"),
    pytest.param(build_deepspeed_engine, {}, id="zero0"),
    pytest.param(build_deepspeed_engine, {"zero_stage": 1}, id="zero1"),
    pytest.param(build_deepspeed_engine, {"zero_stage": 2}, id="zero2"),
    pytest.param(build_deepspeed_engine, {"zero_stage": 3}, id="zero3"),
    pytest.param(build_deepspeed_engine, {"zero_stage": 1, "precision": "bf16"}, id="zero1-bf16"),
    pytest.param(build_deepspeed_engine, {"precision": "bf16"}, id="zero0-bf16"),
]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_deepspeed_gives_the_losses_of_plain_torch(
    stage: int, accumulation: int, tmp_path: Path
) -> None:
    config = _config(gradient_accumulation=accumulation)

    plain = _losses(PlainEngine, config, tmp_path / "plain")
    ours = _losses(
        build_deepspeed_engine, config.model_copy(update={"zero_stage": stage}), tmp_path / "ds"
    )

    assert ours == pytest.approx(plain, rel=1e-5)
    assert plain[-1] < plain[0]


class _StopError(Exception):
    """Stands for a kill."""


class _DyingTask(_Task):
    def loss(self, module: nn.Module, index: int) -> Loss:
        if index == 6:
            raise _StopError
        return super().loss(module, index)


@pytest.mark.parametrize(("builder", "changes"), VARIANTS)
def test_a_killed_training_goes_on_as_if_never_stopped(
    builder: EngineBuilder, changes: Mapping[str, object], tmp_path: Path
) -> None:
    config = _config(checkpoint_every_steps=2, **changes)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train(_Task(), config, engine=builder, work=Workspace(tmp_path / "a"), seed=3)

    with pytest.raises(_StopError):
        train(_DyingTask(), config, engine=builder, work=Workspace(tmp_path / "b"), seed=3)
    resumed = train(_Task(), config, engine=builder, work=Workspace(tmp_path / "b"), seed=3)

    assert resumed.curves == whole.curves
    assert list(resumed.weights) == list(whole.weights)
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name


@pytest.mark.parametrize(("builder", "changes"), VARIANTS)
def test_weights_are_whole_and_in_fp32(
    builder: EngineBuilder, changes: Mapping[str, object]
) -> None:
    task = _Task()
    shapes = {name: value.shape for name, value in task.module.state_dict().items()}

    weights = builder(task.module, _config(**changes)).weights()

    assert {name: value.shape for name, value in weights.items()} == shapes
    assert {value.dtype for value in weights.values()} == {torch.float32}


@pytest.mark.parametrize(("builder", "changes"), VARIANTS[:5])
def test_a_state_of_another_model_is_refused(
    builder: EngineBuilder, changes: Mapping[str, object]
) -> None:
    engine: TrainEngine = builder(_Net(), _config(**changes))
    state = engine.state()
    other = replace(state, shapes=dict(state.shapes) | {"second.weight": (2, 8)})

    with pytest.raises(DataError, match=r"(?s)does not fit the model: .*second\.weight"):
        engine.load_state(JoinedState([other]))


def _after_steps(builder: EngineBuilder, changes: Mapping[str, object]) -> TrainEngine:
    engine = builder(_Net(), _config(**changes))
    for index in range(3):
        engine.backward(_Task().loss(engine.module, index).value)
        engine.step(0.01)
    return engine


@pytest.mark.parametrize(("builder", "changes"), VARIANTS)
def test_a_state_is_whole_however_it_is_split(
    builder: EngineBuilder, changes: Mapping[str, object]
) -> None:
    state = JoinedState([_after_steps(builder, changes).state()])

    lengths = {name: len(values) for name, values in whole_state(state).items()}

    assert lengths["first.weight"] == lengths["first.weight/exp_avg_sq"] == 32
    assert lengths["frozen"] == 3
    assert "frozen/exp_avg" not in lengths
    assert len(lengths) == 5 + 2 * 4


@pytest.mark.slow
@pytest.mark.parametrize(("saver", "saved"), VARIANTS[:5])
@pytest.mark.parametrize(("loader", "loaded"), VARIANTS[:5])
def test_any_engine_goes_on_from_the_state_of_any_other(
    saver: EngineBuilder,
    saved: Mapping[str, object],
    loader: EngineBuilder,
    loaded: Mapping[str, object],
) -> None:
    before = JoinedState([_after_steps(saver, saved).state()])
    engine = loader(_Net(), _config(**loaded))

    engine.load_state(before)

    kept, own = whole_state(before), whole_state(JoinedState([engine.state()]))
    assert own.keys() == kept.keys()
    for name, values in own.items():
        assert torch.equal(values, kept[name]), name
    assert engine.weights()["first.weight"].flatten().tolist() == kept["first.weight"].tolist()


@given(cuts=st.lists(st.integers(1, 31), max_size=4, unique=True), swap=st.booleans())
def test_any_cut_of_a_parameter_is_read_whole(cuts: list[int], *, swap: bool) -> None:
    values = torch.arange(32.0)
    edges = [0, *sorted(cuts), 32]
    pieces = [Piece("w", "value", first, values[first:last]) for first, last in pairwise(edges)]
    halves = [pieces[::2], pieces[1::2]] if swap else [pieces, []]
    states = [EngineState({"w": (4, 8)}, {}, tuple(half), {}) for half in halves]

    assert JoinedState(states).read("w", "value", 5, 29).tolist() == values[5:29].tolist()


def test_a_hole_in_what_was_saved_is_named() -> None:
    pieces = (Piece("w", "value", 0, torch.zeros(4)), Piece("w", "value", 6, torch.zeros(2)))

    with pytest.raises(DataError, match=r"nothing of value of 'w' at place 4 of \[0, 8\)"):
        JoinedState([EngineState({"w": (8,)}, {}, pieces, {})]).read("w", "value", 0, 8)


@pytest.mark.parametrize(("builder", "changes"), VARIANTS)
def test_a_step_that_is_skipped_changes_nothing_and_the_next_one_is_as_usual(
    builder: EngineBuilder, changes: Mapping[str, object]
) -> None:
    engine, other = _after_steps(builder, changes), _after_steps(builder, changes)
    before = whole_state(JoinedState([engine.state()]))

    engine.backward(_Task().loss(engine.module, 50).value)
    engine.step(0.01, is_skipped=True)
    after = whole_state(JoinedState([engine.state()]))
    for one in (engine, other):
        one.backward(_Task().loss(one.module, 3).value)
        one.step(0.01)

    assert all(torch.equal(before[name], after[name]) for name in before)
    assert engine.weights()["second.weight"].tolist() == other.weights()["second.weight"].tolist()


@pytest.mark.parametrize(("builder", "changes"), VARIANTS)
def test_a_gradient_that_is_not_finite_changes_nothing(
    builder: EngineBuilder, changes: Mapping[str, object]
) -> None:
    engine = _after_steps(builder, changes)
    before = whole_state(JoinedState([engine.state()]))

    engine.backward(_Task().loss(engine.module, 3).value * float("inf"))
    norm = engine.step(0.01)

    after = whole_state(JoinedState([engine.state()]))
    assert not math.isfinite(norm)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_stage": 1, "offload": "optimizer"},
        {"zero_stage": 2, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "optimizer_and_parameters"},
    ],
    ids=["zero1", "zero2", "zero3"],
)
def test_what_is_offloaded_learns_alike(changes: dict[str, object], tmp_path: Path) -> None:
    plain = _losses(PlainEngine, _config(), tmp_path / "plain")

    ours = _losses(build_deepspeed_engine, _config(**changes), tmp_path / "ds")

    assert ours == pytest.approx(plain, rel=1e-5)


def test_offloading_what_is_not_split_is_refused() -> None:
    with pytest.raises(ValueError, match="offload = 'optimizer' needs zero_stage of at least 1"):
        _config(offload="optimizer")


def test_the_settings_count_micro_batches() -> None:
    settings = deepspeed_settings(_config(gradient_accumulation=4, zero_stage=2), world_size=2)

    assert settings["train_batch_size"] == 8
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["gradient_clipping"] == 0.5
    assert settings["bf16"] == {"enabled": False}


def test_another_number_of_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_ranks = 2, but 1 processes run"):
        build_deepspeed_engine(_Net(), _config(num_ranks=2))


def test_deepspeed_writes_nothing_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    build_deepspeed_engine(_Net(), _config())

    assert capfd.readouterr().out == ""
