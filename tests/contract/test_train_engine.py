"""What every training engine must do."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from interloom.adapters.deepspeed_engine import build_deepspeed_engine, deepspeed_settings
from interloom.config.training import TrainConfig
from interloom.core.errors import ConfigError, DataError
from interloom.ports.engine import EngineBuilder, TrainEngine
from interloom.ports.workspace import Workspace
from interloom.testing.engine import PlainEngine
from interloom.training.loop import Loss, train


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


@dataclass
class _Saved:
    """What ranks saved, in memory."""

    states: list[Mapping[str, Tensor]]

    @property
    def num_ranks(self) -> int:
        return len(self.states)

    def state(self, rank: int) -> Mapping[str, Tensor]:
        return self.states[rank]


@pytest.mark.parametrize(("builder", "changes"), VARIANTS[:3])
def test_a_state_of_another_model_is_refused(
    builder: EngineBuilder, changes: Mapping[str, object]
) -> None:
    engine: TrainEngine = builder(_Net(), _config(**changes))
    state = dict(engine.state()) | {"model.second.weight": torch.zeros(2, 8)}

    with pytest.raises(DataError, match=r"(?s)does not fit the model: .*second\.weight"):
        engine.load_state(_Saved([state]))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_one_rank_goes_on_from_what_two_saved(stage: int) -> None:
    saved = build_deepspeed_engine(_Net(), _config(zero_stage=stage))
    for index in range(3):
        saved.backward(_Task().loss(saved.module, index).value)
        saved.step(0.01)
    whole = saved.state()
    # as ZeRO's two ranks hold it: halves of what is flat, with padding at the end
    split = [dict(whole), dict(whole)]
    for name, value in whole.items():
        if stage > 0 and not name.startswith("model.") and value.dim() == 1:
            padded = torch.cat([value, value.new_zeros(5 + (len(value) + 5) % 2)])
            split[0][name], split[1][name] = padded.chunk(2)

    resumed = build_deepspeed_engine(_Net(), _config(zero_stage=stage))
    resumed.load_state(_Saved(list(split)))

    assert resumed.state().keys() == whole.keys()
    for name, value in resumed.state().items():
        assert torch.equal(value, whole[name]), name


def test_zero_3_goes_on_with_as_many_ranks_only() -> None:
    engine = build_deepspeed_engine(_Net(), _config(zero_stage=3))
    state = engine.state()

    with pytest.raises(DataError, match="has 2 ranks, this run has 1; ZeRO 3 goes on with as many"):
        engine.load_state(_Saved([state, state]))


def test_the_plain_engine_refuses_the_state_of_two_ranks() -> None:
    engine = PlainEngine(_Net(), _config())

    with pytest.raises(DataError, match="one rank, the checkpoint 2"):
        engine.load_state(_Saved([engine.state(), engine.state()]))


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
