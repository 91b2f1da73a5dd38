"""How the next token is chosen: a pure function of logits, seed, row and step.

Legend: V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a continuation is drawn.

    Attributes:
        max_new_tokens: Longest continuation.
        temperature: 0 takes the likeliest token.
        top_p: Draw among the likeliest tokens whose probabilities first reach this.
        seed: With the row's and the token's index it fixes every draw.
        stop_ids: The continuation ends with the first of these; it is kept.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                "sampling needs max_new_tokens >= 1, temperature >= 0 and 0 < top_p <= 1, got "
                f"{self.max_new_tokens}, {self.temperature} and {self.top_p}"
            )


def choose(logits_V: NDArray[np.float32], sampling: Sampling, row: int, step: int) -> int:
    """The next id. Tokens whose logit is ``-inf`` are never chosen."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    scaled = logits_V.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    order = np.argsort(-weights, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    kept = int(np.searchsorted(reached, sampling.top_p)) + 1
    words = np.random.SeedSequence([sampling.seed, row, step])
    drawn = np.random.Generator(np.random.Philox(words)).random()
    last = min(kept, len(order)) - 1
    place = int(np.searchsorted(reached[:kept], drawn * reached[last], side="right"))
    return int(order[min(place, last)])
