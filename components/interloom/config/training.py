"""How any model here is trained: steps, batches, learning rate, ranks."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from interloom.config.base import Frozen


class TrainConfig(Frozen):
    """One training run of the shared loop."""

    num_steps: PositiveInt
    learning_rate: PositiveFloat
    final_learning_rate_ratio: NonNegativeFloat = 0.1
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    weight_decay: NonNegativeFloat = 0.1
    gradient_clip: PositiveFloat = 1.0
    gradient_accumulation: PositiveInt = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    num_ranks: PositiveInt = 1
    threads_per_rank: PositiveInt = 2
    checkpoint_every_steps: PositiveInt = 200
    log_every_steps: PositiveInt = 20

    @model_validator(mode="after")
    def _warmup_ends_in_time(self) -> Self:
        if self.warmup_steps >= self.num_steps:
            raise ValueError(
                f"warmup_steps must be under num_steps = {self.num_steps}, got {self.warmup_steps}"
            )
        return self
