"""The text-to-token model: its shape, its training, and how spans are synthesised."""

from typing import Annotated, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from interloom.config.base import Frozen
from interloom.config.training import TrainConfig

Share = Annotated[float, Field(ge=0, le=1)]


class TextToTokenConfig(Frozen):
    """A small decoder-only model that speaks text as codes (P1, section 3 of the method).

    Attributes:
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
        return self
