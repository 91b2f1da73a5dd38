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
    """One training run of the shared loop.

    Attributes:
        num_steps: Optimizer steps.
        learning_rate: At the peak.
        final_learning_rate_ratio: The last step's rate, as a part of the peak.
        warmup_steps: Steps of the linear rise to the peak.
        schedule: How the rate falls after the peak.
        beta1: Decay of AdamW's mean gradient.
        beta2: Decay of AdamW's mean square.
        weight_decay: Decoupled.
        gradient_clip: The largest norm of a whole gradient.
        gradient_accumulation: Micro-batches of a rank in a step.
        precision: Of the model; bf16 keeps masters and moments in fp32.
        zero_stage: What DeepSpeed splits over ranks: moments, gradients, parameters.
        offload: What DeepSpeed keeps in the memory of the host; needs a ZeRO stage.
        num_ranks: Processes that train together.
        threads_per_rank: Processor threads of each; part of the numeric class.
        checkpoint_every_steps: How often the state is saved.
        keep_checkpoints: So many of the newest are kept.
        keep_every_steps: Besides, those of steps that are a multiple of this; None for no others.
        log_every_steps: How often a point of each curve is made.
        spike_deviations: A step whose loss is so many deviations above the median of the last 64
            steps is a spike, and its rows are named.
        on_spike: Name the rows and go on, leave the step out, or stop.
        on_nonfinite: What a loss or gradient that is not finite does: stop, or leave the step out.
    """

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
    offload: Literal["optimizer", "optimizer_and_parameters"] | None = None
    num_ranks: PositiveInt = 1
    threads_per_rank: PositiveInt = 2
    checkpoint_every_steps: PositiveInt = 200
    keep_checkpoints: PositiveInt = 2
    keep_every_steps: PositiveInt | None = None
    log_every_steps: PositiveInt = 20
    spike_deviations: PositiveFloat = 10.0
    on_spike: Literal["report", "skip", "stop"] = "report"
    on_nonfinite: Literal["stop", "skip"] = "stop"

    @model_validator(mode="after")
    def _warmup_ends_in_time(self) -> Self:
        if self.warmup_steps >= self.num_steps:
            raise ValueError(
                f"warmup_steps must be under num_steps = {self.num_steps}, got {self.warmup_steps}"
            )
        return self

    @model_validator(mode="after")
    def _offload_has_its_stage(self) -> Self:
        needed = {None: 0, "optimizer": 1, "optimizer_and_parameters": 3}[self.offload]
        if self.zero_stage < needed:
            raise ValueError(
                f"offload = {self.offload!r} needs zero_stage of at least {needed}, "
                f"got {self.zero_stage}"
            )
        return self


def with_audio_decays(config: TrainConfig) -> TrainConfig:
    """With AdamW as models of sound are trained here: a longer memory, less pull to zero."""
    return config.model_copy(update={"beta2": 0.98, "weight_decay": 0.01})
