"""The shape of the language model, and how it is pre-trained."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from interloom.config.base import Frozen
from interloom.config.patches import PatchConfig
from interloom.config.training import TrainConfig


class LanguageModelConfig(Frozen):
    """A Llama-family transformer; the vocabulary's size comes from the layout.

    Attributes:
        hidden_size: Width D of the residual stream.
        num_layers: Transformer blocks.
        num_heads: Query heads H; each has ``hidden_size / num_heads`` channels.
        num_kv_heads: Key and value heads; divides ``num_heads``.
        ffn_size: Inner width of SwiGLU.
        rope_theta: Base of the rotary wavelengths.
        norm_epsilon: Added to the mean square in RMSNorm.
        has_qk_norm: Whether queries and keys are normalised per head, as Qwen 3 does.
        has_qkv_bias: Whether queries, keys and values have a bias, as Qwen 2 does.
        has_tied_embeddings: Whether the output matrix is the input table.
        max_length: Longest sequence that is trained or generated.
        init_std: Standard deviation of the first weights.
    """

    hidden_size: PositiveInt = 192
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 6
    num_kv_heads: PositiveInt = 3
    ffn_size: PositiveInt = 512
    rope_theta: PositiveFloat = 10_000.0
    norm_epsilon: PositiveFloat = 1e-5
    has_qk_norm: bool = True
    has_qkv_bias: bool = False
    has_tied_embeddings: bool = True
    max_length: PositiveInt = 4096
    init_std: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _is_a_family(self) -> Self:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"hidden_size must be an even multiple of num_heads, got "
                f"{self.hidden_size} and {self.num_heads}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads = {self.num_heads}, got {self.num_kv_heads}"
            )
        if self.has_qk_norm and self.has_qkv_bias:
            raise ValueError(
                "has_qk_norm is of Qwen 3 and has_qkv_bias of Qwen 2: no published model has both"
            )
        return self

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.hidden_size // self.num_heads

    @property
    def block_parameters(self) -> int:
        """Weights of one block."""
        kv_size = self.num_kv_heads * self.head_size
        attention = 2 * self.hidden_size * (self.hidden_size + kv_size)
        norms = 2 * self.hidden_size + 2 * self.head_size * self.has_qk_norm
        biases = (self.hidden_size + 2 * kv_size) * self.has_qkv_bias
        return attention + 3 * self.hidden_size * self.ffn_size + norms + biases

    def num_parameters(self, vocab_size: int) -> int:
        """Weights in all, embeddings counted once if tied."""
        tables = vocab_size * self.hidden_size * (1 if self.has_tied_embeddings else 2)
        return self.num_layers * self.block_parameters + tables + self.hidden_size


def _preset(hidden: int, layers: int, heads: int, kv: int, ffn: int) -> LanguageModelConfig:
    return LanguageModelConfig(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv,
        ffn_size=ffn,
        has_tied_embeddings=hidden < 2048,
        max_length=8192,
    )


PRESETS: Mapping[str, LanguageModelConfig] = MappingProxyType(
    {
        "2m": LanguageModelConfig(),
        "5m": _preset(256, 6, 8, 4, 704),
        "30m": _preset(512, 8, 8, 4, 1408),
        "100m": _preset(768, 12, 12, 4, 2048),
        "300m": _preset(1024, 24, 16, 8, 2816),
        "1.5b": _preset(2048, 28, 16, 8, 5632),
        "9b": _preset(4096, 40, 32, 8, 13696),
    }
)
"""Named shapes; the name is the size without embeddings, roughly."""


class PretrainConfig(Frozen):
    """How the language model is trained (spec section 5.1).

    The rows of one optimizer step are ``rows_per_batch * gradient_accumulation * num_ranks``.

    Attributes:
        model: Its shape.
        patches: Whether, and how, several speech tokens are one position of it.
        train: Steps, learning rate, ranks.
        rows_per_batch: Rows of one micro-batch on one rank.
        has_activation_checkpointing: Recompute each block in the backward pass.
        is_compiled: Whether torch compiles the blocks. Meant for GPUs: on a processor the products
            that training chooses by itself are faster.
        loss_chunk_tokens: Positions whose logits are held at once.
        seed_offset: Added to the recipe's seed for this stage alone: another draw of weights and
            order on the same data.
        start: What training starts from: of the catalog, ``NAME`` or ``NAME@VERSION``, a language
            model, or a text model that ``interloom ingest base`` took in, whose tables are
            extended; with a fresh optimizer and from the first row; None for random weights. A
            run that was stopped needs no key: it goes on from its own checkpoint.
    """

    model: LanguageModelConfig = LanguageModelConfig()
    patches: PatchConfig = PatchConfig()
    train: TrainConfig = TrainConfig(
        num_steps=880, learning_rate=2e-3, warmup_steps=20, schedule="linear"
    )
    rows_per_batch: Annotated[int, Field(ge=1)] = 4
    has_activation_checkpointing: bool = False
    is_compiled: bool = False
    loss_chunk_tokens: PositiveInt = 4096
    seed_offset: NonNegativeInt = 0
    start: str | None = None

    @model_validator(mode="after")
    def _can_be_compiled(self) -> Self:
        if self.is_compiled and (self.patches.kind != "off" or self.train.zero_stage == 3):
            raise ValueError(
                "is_compiled goes with patches.kind = 'off' and a train.zero_stage under 3: the "
                "shapes of patches, and weights that are gathered, change from batch to batch"
            )
        return self

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step over all ranks."""
        return self.rows_per_batch * self.train.gradient_accumulation * self.train.num_ranks

    @property
    def laid_patches(self) -> PatchConfig:
        """The patches, with a curriculum laid over the rows of this training."""
        return self.patches.over(self.train.num_steps * self.rows_per_step)
