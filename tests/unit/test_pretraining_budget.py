"""The arithmetic of a plan against real small models."""

import pytest
import torch

from interloom.config.language_model import PRESETS, LanguageModelConfig, PretrainConfig
from interloom.config.training import TrainConfig
from interloom.language_model.budget import block_elements, pretraining_budget
from interloom.language_model.model import Transformer
from interloom.testing.engine import PlainEngine

SHAPE = LanguageModelConfig(
    hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=2, ffn_size=176, has_qk_norm=False
)
ROWS, LENGTH, VOCABULARY = 2, 128, 500


def _config(shape: LanguageModelConfig = SHAPE, **changes: object) -> PretrainConfig:
    train = {"num_steps": 10, "learning_rate": 1e-3} | changes
    return PretrainConfig(model=shape, train=TrainConfig.model_validate(train), rows_per_batch=ROWS)


def _model(shape: LanguageModelConfig) -> Transformer:
    model = Transformer(shape, VOCABULARY)
    model.initialise(torch.Generator().manual_seed(0))
    return model


def _loss(model: Transformer) -> torch.Tensor:
    tokens = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % VOCABULARY
    is_target = torch.ones_like(tokens, dtype=torch.bool)
    is_target[:, 0] = False
    places = torch.arange(LENGTH).expand(ROWS, LENGTH)
    total: torch.Tensor = model(tokens, places, torch.zeros_like(tokens), is_target)[0]
    return total


@pytest.mark.parametrize("name", [*PRESETS])
def test_the_parameters_of_every_preset_are_those_of_its_model(name: str) -> None:
    with torch.device("meta"):
        model = Transformer(PRESETS[name], VOCABULARY)

    budget = pretraining_budget(
        _config(PRESETS[name]), VOCABULARY, row_length=LENGTH, stored_tokens=1
    )

    assert budget.parameters == sum(p.numel() for p in model.parameters())


def test_weights_gradients_and_moments_take_what_a_real_model_takes() -> None:
    model = _model(SHAPE)
    engine = PlainEngine(model, _config().train)
    engine.backward(_loss(model))
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    engine.step(1e-3)
    weights = sum(p.nbytes for p in model.parameters())

    budget = pretraining_budget(_config(), VOCABULARY, row_length=LENGTH, stored_tokens=1)

    assert budget.memory[0].weights == pytest.approx(weights, rel=0.02)
    assert budget.memory[0].gradients == pytest.approx(gradients, rel=0.02)
    state = sum(piece.values.nbytes for piece in engine.state().pieces)
    assert budget.checkpoint_bytes == pytest.approx(state, rel=0.02)


@pytest.mark.parametrize(
    "shape", [SHAPE, SHAPE.model_copy(update={"has_qk_norm": True})], ids=["llama", "qwen"]
)
def test_a_block_keeps_as_many_numbers_as_a_real_one(shape: LanguageModelConfig) -> None:
    kept = [_kept_bytes(shape.model_copy(update={"num_layers": n})) for n in (1, 2)]

    elements = (kept[1] - kept[0]) / 4 / (ROWS * LENGTH)

    assert block_elements(shape) == pytest.approx(elements, rel=0.02)


def _kept_bytes(shape: LanguageModelConfig) -> int:
    """Bytes of all that a forward pass keeps for the backward one, beside the weights."""
    model = _model(shape)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(model)
    assert loss.isfinite()
    return sum(storage.nbytes() for storage in kept.values())


def test_zero_stages_split_one_thing_more_each() -> None:
    config = _config(precision="bf16", zero_stage=1, num_ranks=4)

    memory = pretraining_budget(config, VOCABULARY, row_length=LENGTH, stored_tokens=1).memory

    n = SHAPE.num_parameters(VOCABULARY)
    states = [m.weights + m.gradients + m.moments for m in memory.values()]
    assert states == [16 * n, 2 * n + 2 * n + 12 * n / 4, 2 * n + 14 * n / 4, 16 * n / 4]


def test_time_is_operations_by_the_peak_that_is_reached() -> None:
    budget = pretraining_budget(_config(), VOCABULARY, row_length=LENGTH, stored_tokens=800)

    matrices = SHAPE.num_layers * SHAPE.block_parameters + VOCABULARY * 64
    assert budget.tokens == 10 * ROWS * LENGTH
    assert budget.flops == budget.tokens * (6 * matrices + 6 * 3 * 64 * LENGTH)
    assert budget.gpu_hours(peak_flops_per_s=1e9, mfu=0.5) == budget.flops / 0.5e9 / 3600
    assert budget.rows_bytes == 3300
