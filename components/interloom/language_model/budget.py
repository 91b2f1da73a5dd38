"""What pre-training takes, on paper: parameters, operations, memory, time, storage. Pure.

Symbols as usual: N parameters, D width, V vocabulary, R ranks, T tokens of a micro-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from interloom.config.language_model import LanguageModelConfig, PretrainConfig

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
    config: PretrainConfig, vocab_size: int, *, row_length: int, stored_tokens: int
) -> Budget:
    """What a pre-training with plain positions takes.

    Args:
        config: Shape, steps, ranks.
        vocab_size: V, of the joint layout.
        row_length: Tokens of a row.
        stored_tokens: Of all packed rows.
    """
    shape = config.model
    parameters = shape.num_parameters(vocab_size)
    tables = vocab_size * shape.hidden_size * (1 if shape.has_tied_embeddings else 2)
    tokens = config.train.num_steps * config.rows_per_step * row_length
    matrices = shape.num_layers * shape.block_parameters + vocab_size * shape.hidden_size
    attention = 6 * shape.num_layers * shape.hidden_size * row_length
    return Budget(
        parameters=parameters,
        embedding_parameters=tables,
        tokens=tokens,
        flops=float(tokens) * (6 * matrices + attention),
        memory={
            stage: _memory(config, parameters, vocab_size, row_length, stage)
            for stage in ZERO_STAGES
        },
        checkpoint_bytes=(4 + _MOMENTS_BYTES) * parameters,
        rows_bytes=stored_tokens * _STORED_BYTES,
        num_gpus=config.train.num_ranks,
    )


def _memory(
    config: PretrainConfig, parameters: int, vocab_size: int, row_length: int, stage: int
) -> Memory:
    """Bytes of one GPU under a ZeRO stage; of bf16 the masters are split from stage 1 on."""
    ranks, size = config.train.num_ranks, _BYTES[config.train.precision]
    is_bf16 = config.train.precision == "bf16"
    over = {at: ranks if stage >= at else 1 for at in (1, 2, 3)}
    weights = size * parameters / over[3] + (4 * parameters / over[1] if is_bf16 else 0)
    tokens = config.rows_per_batch * row_length
    chunk = min(tokens, config.loss_chunk_tokens)
    return Memory(
        weights=weights,
        gradients=size * parameters / over[2],
        moments=_MOMENTS_BYTES * parameters / over[1],
        activations=size * tokens * _saved_elements(config),
        loss=4 * vocab_size * (chunk + config.model.hidden_size),
    )


def _saved_elements(config: PretrainConfig) -> int:
    """Numbers a token that are kept for the backward pass."""
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
