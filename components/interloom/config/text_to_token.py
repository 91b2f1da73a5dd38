"""The text-to-token model: its shape, its training, and how spans are synthesised."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from interloom.config.base import Frozen
from interloom.config.training import TrainConfig

Share = Annotated[float, Field(ge=0, le=1)]


EngineKind = Literal["torch", "vllm"]
Size = Literal["custom", "1m", "5m", "30m", "100m", "300m", "1.5b"]


class ModelSize(Frozen):
    """The size of a decoder-only model.

    Attributes:
        width: D, of the residual stream.
        num_layers: Transformer blocks.
        num_heads: Attention heads; must divide the width into even parts.
        num_kv_heads: Key and value heads; divides ``num_heads``.
        ffn_size: Inner width of SwiGLU.
    """

    width: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    ffn_size: PositiveInt


def _size(width: int, layers: int, heads: int, kv_heads: int, ffn: int) -> ModelSize:
    return ModelSize(
        width=width, num_layers=layers, num_heads=heads, num_kv_heads=kv_heads, ffn_size=ffn
    )


SIZES: Mapping[str, ModelSize] = MappingProxyType(
    {
        "1m": _size(128, 4, 4, 4, 336),
        "5m": _size(256, 6, 8, 8, 688),
        "30m": _size(512, 8, 8, 8, 1376),
        "100m": _size(768, 12, 12, 12, 2048),
        "300m": _size(1024, 24, 16, 8, 2816),
        "1.5b": _size(2048, 28, 16, 8, 5632),
    }
)
"""Named sizes, roughly in weights without embeddings."""


class BaseConfig(Frozen):
    """A language model of text to begin from, in Hugging Face's layout.

    Attributes:
        folder: Holds ``config.json``, ``tokenizer.json`` and safetensors of a Llama, a Qwen 2 or a
            Qwen 3.
        sha256: Digest of these files: what the result depends on. Leave it wrong once to be told.
    """

    folder: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = "0" * 64


class TextToTokenConfig(Frozen):
    """A decoder-only model that speaks text as codes (P1, section 3 of the method).

    Attributes:
        base: A language model of text to begin from; it fixes the size. None begins from nothing.
        size: A named size, or ``custom``: the next three.
        width: D, of the residual stream.
        num_layers: Transformer blocks.
        num_heads: Attention heads; must divide the width into even parts.
        dropout: On the residual branches, in training only.
        rows_per_batch: Pieces of speech in a micro-batch.
        piece_share: Share of the examples that are cut out of an utterance at word boundaries, so
            that spans without context, which interleaving asks for, are seen in training.
        mean_piece_words: Mean of the Poisson length of such a piece, and of a spliced passage.
        spliced_share: Share of the examples that are spliced from runs of words of one speaker, so
            that the text alone tells what comes next.
        mean_spliced_words: Mean of the Poisson length of such a run.
        max_positions: Longest text and speech together, in tokens; longer pairs are left out.
    """

    base: BaseConfig | None = None
    size: Size = "custom"
    width: PositiveInt = 128
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    dropout: Share = 0.1
    rows_per_batch: PositiveInt = 16
    piece_share: Share = 0.25
    mean_piece_words: PositiveFloat = 8.0
    spliced_share: Share = 0.5
    mean_spliced_words: PositiveFloat = 2.0
    max_positions: PositiveInt = 512
    train: TrainConfig = TrainConfig(
        num_steps=1300,
        learning_rate=4e-3,
        warmup_steps=60,
        weight_decay=0.05,
        threads_per_rank=1,
    )

    @property
    def model_size(self) -> ModelSize:
        """The size of a model that begins from nothing."""
        if self.size != "custom":
            return SIZES[self.size]
        ffn_size = 16 * round(self.width * 8 / 3 / 16)
        heads = self.num_heads
        return _size(self.width, self.num_layers, heads, heads, ffn_size)

    @model_validator(mode="after")
    def _shares_leave_room(self) -> Self:
        if self.piece_share + self.spliced_share > 1:
            raise ValueError(
                f"piece_share and spliced_share must sum to at most 1, got {self.piece_share} and "
                f"{self.spliced_share}"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"width must be a multiple of 2 * num_heads = {2 * self.num_heads}, "
                f"got {self.width}"
            )
        return self


class SynthesisConfig(Frozen):
    """How spans of text are spoken, and which results are refused.

    Attributes:
        engine: What decodes: ``torch``, or ``vllm`` for a model that begins from a ``base``.
        num_slots: Spans decoded side by side; part of the numeric class.
        temperature: Of the first attempt; 0 is greedy.
        top_p: Nucleus of sampled attempts.
        retry_temperature: Of the attempts after a refusal.
        max_attempts: Tries before a span stays text.
        min_tokens_per_word: Fewest codes a word may take, on average over a span.
        max_tokens_per_word: Most codes a word may take, on average over a span.
        slack_tokens: Added to both limits, for very short spans.
        max_tokens: No span is longer: 375 codes are 30 s at 12.5 Hz.
        loop_tokens: A span is a loop if this many codes in a row repeat a cycle of up to
            ``loop_period`` codes.
        loop_period: Longest cycle looked for.
        judged_share: Share of the spans that are read back by the tokenizer's head.
        max_error_rate: Highest word error rate of a span that is read back.
        voice: Speaker to speak as; None draws one for each span from its id.
    """

    engine: EngineKind = "torch"
    num_slots: PositiveInt = 64
    temperature: NonNegativeFloat = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    retry_temperature: PositiveFloat = 0.8
    max_attempts: PositiveInt = 3
    min_tokens_per_word: NonNegativeFloat = 2.0
    max_tokens_per_word: PositiveFloat = 9.0
    slack_tokens: NonNegativeInt = 6
    max_tokens: PositiveInt = 375
    loop_tokens: PositiveInt = 16
    loop_period: PositiveInt = 4
    judged_share: Share = 0.0
    max_error_rate: NonNegativeFloat = 0.6
    voice: str | None = None

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        if self.min_tokens_per_word >= self.max_tokens_per_word:
            raise ValueError(
                f"min_tokens_per_word must be under max_tokens_per_word = "
                f"{self.max_tokens_per_word}, got {self.min_tokens_per_word}"
            )
        if self.loop_period >= self.loop_tokens:
            raise ValueError(
                f"loop_period must be under loop_tokens = {self.loop_tokens}, so that a cycle is "
                f"seen again before it is a loop, got {self.loop_period}"
            )
        return self
