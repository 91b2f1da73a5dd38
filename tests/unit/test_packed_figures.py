"""Packing costs nothing but rounding, and the model is Llama: how far each may be off."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from interloom.config.language_model import LanguageModelConfig
from interloom.language_model.convert import export_hf, hf_config, import_hf
from interloom.language_model.model import Transformer, packed_mask
from interloom.mixture.examples import Example
from interloom.mixture.rows import MemoryRows
from interloom.testing.models import draw_biases
from interloom.vocabulary.layout import Marker, VocabularyLayout

LAYOUT = VocabularyLayout(200, 64, "1" * 64, "2" * 64)
LLAMA = LanguageModelConfig(
    hidden_size=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    ffn_size=160,
    has_qk_norm=False,
    has_tied_embeddings=False,
)
QWEN2 = LLAMA.model_copy(update={"has_qkv_bias": True})
QWEN3 = LLAMA.model_copy(update={"has_qk_norm": True, "has_tied_embeddings": True})
CONFIGS = pytest.mark.parametrize("config", [LLAMA, QWEN2, QWEN3], ids=["llama", "qwen2", "qwen3"])


def _model(config: LanguageModelConfig) -> Transformer:
    model = Transformer(config, LAYOUT.size)
    model.initialise(torch.Generator().manual_seed(1))
    draw_biases(model, seed=2)
    return model


def _losses(model: Transformer, documents: list[np.ndarray], row_length: int) -> torch.Tensor:
    """Every target's loss in fp64, in the order of the documents' lengths; runs backward."""
    examples = [("s", Example.after(str(i), ids, 1, "x")) for i, ids in enumerate(documents)]
    rows = MemoryRows(examples, row_length=row_length, pad=LAYOUT.marker(Marker.PAD))
    batch = rows.batch(range(rows.num_rows))
    total, losses_N = model(
        torch.from_numpy(batch.tokens_BL).long(),
        torch.from_numpy(batch.positions_BL),
        torch.from_numpy(batch.segments_BL),
        torch.from_numpy(batch.is_target_BL),
    )
    torch.autograd.backward(total)
    found: torch.Tensor = losses_N.double()
    return found


@CONFIGS
def test_the_packed_loss_is_the_unpacked_one_to_a_millionth(config: LanguageModelConfig) -> None:
    rng = np.random.Generator(np.random.Philox(0))
    lengths = rng.integers(5, 60, 40)
    documents = [rng.integers(0, 200, length).astype(np.int32) for length in lengths]
    model = _model(config)

    packed = _losses(model, documents, 128)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    alone = torch.cat([_losses(model, [ids], len(ids)) for ids in documents])

    assert len(packed) == len(alone) == lengths.sum() - len(documents)
    assert packed.mean().item() == pytest.approx(alone.mean().item(), rel=1e-6)
    for ours, parameter in zip(gradients, model.parameters(), strict=True):
        assert parameter.grad is not None
        largest = parameter.grad.abs().max()
        assert (ours - parameter.grad).abs().max() <= 1e-5 * largest


@pytest.mark.slow
@CONFIGS
def test_logits_and_gradients_are_those_of_transformers_also_after_export_and_reload(
    config: LanguageModelConfig, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model = _model(config)
    theirs = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**hf_config(config, LAYOUT.size))
    )
    theirs.load_state_dict(export_hf(model.state_dict(), config), strict=False)
    theirs.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    back = Transformer(config, LAYOUT.size)
    back.load_state_dict(import_hf(reloaded.state_dict(), config))
    rng = np.random.Generator(np.random.Philox(3))
    ids = torch.from_numpy(rng.integers(0, 200, (2, 50)))

    for ours in (model, back):
        places = torch.arange(50).expand(2, 50)
        mask = packed_mask(torch.zeros(2, 50, dtype=torch.int32))
        logits = ours.hidden(ids, places, mask) @ ours.output_weight.T
        expected = reloaded(ids).logits
        assert (logits - expected).abs().max() <= 1e-5
        _backward(logits, ids)
        _backward(expected, ids)
        own = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
        exported = export_hf(own, config)
        assert set(exported) >= {name for name, _ in reloaded.named_parameters()}
        for name, gradient in exported.items():
            other = reloaded.get_parameter(name).grad
            assert (gradient - other).abs().max() <= 1e-5 * other.abs().max(), name
        reloaded.zero_grad()


def _backward(logits: torch.Tensor, ids: torch.Tensor) -> None:
    loss = functional.cross_entropy(logits[:, :-1].reshape(-1, LAYOUT.size), ids[:, 1:].reshape(-1))
    torch.autograd.backward(loss)
