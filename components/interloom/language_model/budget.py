"""What pre-training takes, on paper: parameters, operations, memory, time, storage. Pure.

Symbols as usual: N parameters, D width, V vocabulary, R ranks, T tokens of a micro-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from interloom.config.language_model import LanguageModelConfig, PretrainConfig
from interloom.language_model.patches.sizes import (
    PatchWork,
    forward_flops,
    local_shape,
    num_parameters,
)

ZERO_STAGES = (0, 1, 2, 3)
_BYTES = {"bf16": 2, "fp32": 4}
_MOMENTS_BYTES = 8  # of AdamW, in fp32, a parameter
_STORED_BYTES = 4 + 1 / 8  # a token and whether it is a target


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU.

    Attributes:
        weights: Parameters, and fp32 masters where they are in bf16.
        gradients: Of all parameters.
        moments: Of AdamW.
        activations: Of one micro-batch, at the end of its forward pass.
        loss: Logits of one chunk with their gradient, and the gradient of the output matrix.
    """

    weights: float
    gradients: float
    moments: float
    activations: float
    loss: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.activations + self.loss


@dataclass(frozen=True, slots=True)
class Budget:
    """What a pre-training takes.

    Attributes:
        parameters: Weights in all.
        embedding_parameters: Those of the input and output tables.
        tokens: Positions that are trained on, padding included.
        flops: Operations of the model, forward and backward, attention as of rows of one document
            each; without what is computed twice to save memory, as MFU counts.
        memory: Of one GPU, by ZeRO stage.
        checkpoint_bytes: Weights and moments of one checkpoint, in fp32.
        rows_bytes: The packed rows.
        num_gpus: Ranks.
    """

    parameters: int
    embedding_parameters: int
    tokens: int
    flops: float
    memory: Mapping[int, Memory]
    checkpoint_bytes: int
    rows_bytes: float
    num_gpus: int

    def gpu_hours(self, *, peak_flops_per_s: float, mfu: float) -> float:
        """Hours of GPUs that work at ``mfu`` of their peak."""
        return self.flops / (peak_flops_per_s * mfu) / 3600


def pretraining_budget(
    config: PretrainConfig,
    vocab_size: int,
    *,
    row_length: int,
    stored_tokens: int,
    speech_share: float = 0.0,
) -> Budget:
    """What a pre-training takes.

    Args:
        config: Shape, steps, ranks.
        vocab_size: V, of the joint layout.
        row_length: Tokens of a row.
        stored_tokens: Of all packed rows.
        speech_share: Part of the tokens that are speech codes; counts where they are patched.
    """
    is_patched = config.patches.kind != "off"
    count = _patched if is_patched else _plain
    model = count(config, vocab_size, row_length, speech_share)
    rows = config.train.num_steps * config.rows_per_step
    return Budget(
        parameters=model.parameters,
        embedding_parameters=model.embedding_parameters,
        tokens=rows * row_length,
        flops=rows * model.row_flops,
        memory={
            stage: _memory(config, model, vocab_size, row_length, stage) for stage in ZERO_STAGES
        },
        checkpoint_bytes=(4 + _MOMENTS_BYTES) * model.parameters,
        rows_bytes=stored_tokens * _STORED_BYTES,
        num_gpus=config.train.num_ranks,
    )


@dataclass(frozen=True, slots=True)
class _Model:
    """A model's weights, the operations of a row, and what a token keeps for the backward pass."""

    parameters: int
    embedding_parameters: int
    row_flops: float
    saved_elements: float
    output_width: int


def _plain(
    config: PretrainConfig, vocab_size: int, row_length: int, _speech_share: float
) -> _Model:
    shape = config.model
    matrices = shape.num_layers * shape.block_parameters + vocab_size * shape.hidden_size
    attention = 6 * shape.num_layers * shape.hidden_size * row_length
    return _Model(
        parameters=shape.num_parameters(vocab_size),
        embedding_parameters=vocab_size
        * shape.hidden_size
        * (1 if shape.has_tied_embeddings else 2),
        row_flops=float(row_length) * (6 * matrices + attention),
        saved_elements=_saved_elements(config),
        output_width=shape.hidden_size,
    )


def _patched(
    config: PretrainConfig, vocab_size: int, row_length: int, speech_share: float
) -> _Model:
    patches, shape = config.patches, config.model
    work = PatchWork.of_row(patches, row_length, speech_share=speech_share)
    local = block_elements(local_shape(patches, shape))
    layers = patches.encoder_layers + patches.decoder_layers
    crosses = patches.decoder_layers + 1
    entries = patches.sub_queries * work.patches / work.tokens
    crossed = crosses * patches.local_size * (5 + 4 * entries)
    masks = (
        layers * work.tokens
        + crosses * patches.sub_queries * work.patches
        + shape.num_layers * work.patches**2 / work.tokens
    )
    return _Model(
        parameters=sum(num_parameters(patches, shape, vocab_size).values()),
        embedding_parameters=2 * vocab_size * patches.local_size,
        row_flops=3.0 * sum(forward_flops(patches, shape, vocab_size, work).values()),
        saved_elements=layers * local
        + crossed
        + masks
        + _saved_elements(config) * work.patches / work.tokens,
        output_width=patches.local_size,
    )


def _memory(
    config: PretrainConfig, model: _Model, vocab_size: int, row_length: int, stage: int
) -> Memory:
    """Bytes of one GPU under a ZeRO stage; of bf16 the masters are split from stage 1 on."""
    ranks, size = config.train.num_ranks, _BYTES[config.train.precision]
    is_bf16 = config.train.precision == "bf16"
    over = {at: ranks if stage >= at else 1 for at in (1, 2, 3)}
    parameters = model.parameters
    weights = size * parameters / over[3] + (4 * parameters / over[1] if is_bf16 else 0)
    tokens = config.rows_per_batch * row_length
    chunk = min(tokens, config.loss_chunk_tokens)
    return Memory(
        weights=weights,
        gradients=size * parameters / over[2],
        moments=_MOMENTS_BYTES * parameters / over[1],
        activations=size * tokens * model.saved_elements,
        loss=4 * vocab_size * (chunk + model.output_width),
    )


def _saved_elements(config: PretrainConfig) -> int:
    """Numbers a position of the large model that are kept for the backward pass."""
    shape = config.model
    if config.has_activation_checkpointing:
        return shape.num_layers * shape.hidden_size + block_elements(shape)
    return shape.num_layers * block_elements(shape)


def block_elements(shape: LanguageModelConfig) -> int:
    """Numbers a token that one block keeps: the most, with norms that are not fused.

    Input, normalised input and output of both norms; the input of the output matrix; what came out
    of the matrix of queries, keys and values, and both turned; the inputs of SwiGLU and of the
    matrix after it. Norms of queries and keys keep them twice more, but for one of the keys.
    """
    width, kv = shape.hidden_size, shape.num_kv_heads * shape.head_size
    heads = 2 * (width + kv) + kv
    statistics = 2 + shape.num_heads
    if shape.has_qk_norm:
        heads += 2 * width + kv
        statistics += shape.num_heads + shape.num_kv_heads
    return 7 * width + heads + 3 * shape.ffn_size + statistics
