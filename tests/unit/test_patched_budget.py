"""A plan of pre-training with latent speech patches against a real small model."""

import numpy as np
import pytest
import torch

from interloom.config.language_model import LanguageModelConfig, PretrainConfig
from interloom.config.patches import PatchConfig
from interloom.language_model.budget import pretraining_budget
from interloom.language_model.operations import training_flops
from interloom.language_model.patches.model import PatchedTransformer
from interloom.mixture.rows import RowBatch

SHAPE = LanguageModelConfig(
    hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=2, ffn_size=176, has_qk_norm=False
)
PATCHES = PatchConfig(
    kind="static", size=4, local_size=32, local_heads=2, local_ffn_size=88, token_window=64
)
TEXT, VOCABULARY, LENGTH = 300, 500, 400


def batch_of_runs() -> RowBatch:
    """One row, one document: 60 tokens of speech after every 40 of text."""
    is_speech = np.arange(LENGTH) % 100 >= 40
    zeros = np.zeros((1, LENGTH), np.int32)
    return RowBatch(
        tokens_BL=np.where(is_speech, TEXT, 0).astype(np.int32)[None],
        segments_BL=zeros,
        positions_BL=np.arange(LENGTH, dtype=np.int32)[None],
        is_target_BL=np.arange(LENGTH)[None] > 0,
        sources_BL=zeros,
    )


def model() -> PatchedTransformer:
    made = PatchedTransformer(SHAPE, PATCHES, VOCABULARY, speech_offset=TEXT)
    made.initialise(torch.Generator().manual_seed(0))
    return made


def kept_bytes(patched: PatchedTransformer, batch: RowBatch) -> int:
    """Floating-point bytes that a forward pass keeps for the backward one, beside the weights."""
    own = {parameter.untyped_storage().data_ptr() for parameter in patched.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    arrays = (batch.tokens_BL, batch.positions_BL, batch.segments_BL)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = patched.hidden(*(torch.from_numpy(array).long() for array in arrays))
    assert hidden.isfinite().all()
    return sum(kept.values())


def test_parameters_operations_and_memory_are_those_of_a_real_model() -> None:
    config = PretrainConfig(model=SHAPE, patches=PATCHES, rows_per_batch=1)
    batch, patched = batch_of_runs(), model()

    budget = pretraining_budget(
        config, VOCABULARY, row_length=LENGTH, stored_tokens=LENGTH, speech_share=0.6
    )

    rows = budget.tokens / LENGTH
    assert budget.parameters == sum(parameter.numel() for parameter in patched.parameters())
    assert budget.flops / rows == pytest.approx(training_flops(patched, batch), rel=0.02)
    assert budget.memory[0].activations == pytest.approx(kept_bytes(patched, batch), rel=0.1)


def test_patches_of_speech_save_operations_of_the_large_model() -> None:
    config = PretrainConfig(model=SHAPE, patches=PATCHES)
    speech, text = (
        pretraining_budget(
            config, VOCABULARY, row_length=LENGTH, stored_tokens=LENGTH, speech_share=share
        )
        for share in (0.6, 0.0)
    )

    assert speech.flops < text.flops
    assert speech.memory[0].activations < text.memory[0].activations
