"""The learning rate as a pure function of the step."""

import math
from typing import assert_never

from interloom.config.training import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of the optimizer step with this 0-based index.

    Linear warm-up from ``1/warmup_steps`` of the peak, then the schedule down to
    ``final_learning_rate_ratio`` of the peak at the last step.
    """
    peak = config.learning_rate
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.num_steps - 1 - config.warmup_steps)
    done = min(1.0, done)
    final = config.final_learning_rate_ratio
    match config.schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - (1 - final) * done)
        case "cosine":
            return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))
        case _:
            assert_never(config.schedule)
