"""Is the codebook alive? Shapes: K codes.

A codebook fails quietly: the loss falls, and a handful of codes carry everything. What is in use
after training is held to the limits of the recipe; a tokenizer that breaks one is not published.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.config.speech_tokenizer import HealthLimits, Limit
from interloom.ports.catalog import Metric
from interloom.ports.gate import CheckResult
from interloom.speech_tokenizer.quantizer import EmaCodebook, unseen_count
from interloom.speech_tokenizer.scoring import codebook_metrics, perplexity

SUITE = "codebook"


@dataclass(frozen=True, slots=True)
class Health:
    """The state of a codebook, as shares of its size.

    Attributes:
        counts_K: How often each code was chosen.
        dead: Codes that the EMA has not seen since the last restarts.
    """

    counts_K: NDArray[np.int64]
    dead: float

    @property
    def used(self) -> float:
        """Codes that were chosen at all."""
        return float((self.counts_K > 0).mean())

    @property
    def spread(self) -> float:
        """Perplexity of their use: 1 if all are used alike."""
        return perplexity(self.counts_K) / len(self.counts_K)

    def metrics(self) -> tuple[Metric, ...]:
        """For the catalog."""
        dead = Metric("tokenizer/codes_dead", self.dead)
        return (*codebook_metrics(self.counts_K, prefix="tokenizer"), dead)


def health_of(codebook: EmaCodebook, counts_K: NDArray[np.int64]) -> Health:
    """The health of a trained codebook whose codes were chosen so often."""
    is_dead = codebook.ema_count <= unseen_count(codebook.config)
    return Health(counts_K, float(is_dead.float().mean()))


def judged(health: Health, limits: HealthLimits) -> Iterator[CheckResult]:
    """One verdict a limit: it holds, or is broken to warn, or to stop."""
    yield _least("of the codes are in use", health.used, limits.used)
    yield _least("of the codebook is the perplexity of its use", health.spread, limits.perplexity)
    yield _most("of the codes are dead", health.dead, limits.dead)


def _least(what: str, value: float, limit: Limit) -> CheckResult:
    return _verdict("at least", what, value, limit, misses=(value < limit.warn, value < limit.fail))


def _most(what: str, value: float, limit: Limit) -> CheckResult:
    return _verdict("at most", what, value, limit, misses=(value > limit.warn, value > limit.fail))


def _verdict(
    least_or_most: str, what: str, value: float, limit: Limit, *, misses: tuple[bool, bool]
) -> CheckResult:
    """The verdict, which names the limit that is broken, or else the stricter one."""
    warns, fails = misses
    bound = limit.fail if fails else limit.warn
    return CheckResult(
        suite=SUITE,
        expectation=f"{least_or_most} {bound:.1%} {what}",
        success=not warns,
        observed=f"{value:.1%}",
        severity="fail" if fails else "warn",
    )
