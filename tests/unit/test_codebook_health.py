"""Whether a codebook is alive, and what becomes of one that is not."""

import numpy as np
import pytest
import torch

from interloom.config.overrides import apply_overrides
from interloom.config.recipe import recipe_of
from interloom.config.speech_tokenizer import HealthLimits, Limit, QuantizerConfig
from interloom.core.errors import ConfigError
from interloom.ports.gate import CheckResult
from interloom.speech_tokenizer.health import Health, health_of, judged
from interloom.speech_tokenizer.quantizer import EmaCodebook
from interloom_flows.recipes import load_recipe

LIMITS = HealthLimits(
    used=Limit(warn=0.6, fail=0.3),
    perplexity=Limit(warn=0.5, fail=0.25),
    dead=Limit(warn=0.2, fail=0.5),
)


def _verdicts(counts: list[int], dead: float) -> list[CheckResult]:
    return list(judged(Health(np.array(counts), dead), LIMITS))


def test_a_codebook_in_even_use_breaks_no_limit() -> None:
    used, spread, dead = _verdicts([5, 5, 5, 5], 0.0)

    assert [one.success for one in (used, spread, dead)] == [True] * 3
    assert used.expectation == "at least 60.0% of the codes are in use"
    assert (used.observed, spread.observed, dead.observed) == ("100.0%", "100.0%", "0.0%")


def test_between_the_limits_is_a_warning() -> None:
    used, spread, dead = _verdicts([6, 6, 0, 0], 0.4)

    assert (used.success, used.severity) == (False, "warn")
    assert spread.success  # the perplexity is 2 of 4 codes: just enough
    assert (dead.success, dead.severity) == (False, "warn")
    assert dead.expectation == "at most 20.0% of the codes are dead"


def test_a_collapsed_codebook_breaks_the_limits_that_stop_it() -> None:
    verdicts = _verdicts([9, 0, 0, 0, 0], 0.6)

    assert [one.severity for one in verdicts] == ["fail"] * 3
    assert not any(one.success for one in verdicts)
    assert verdicts[0].expectation == "at least 30.0% of the codes are in use"
    assert verdicts[0].observed == "20.0%"


def test_dead_are_the_codes_that_nothing_was_seen_of_for_as_long_as_a_restart_waits() -> None:
    codebook = EmaCodebook(QuantizerConfig(codebook_size=4, restart_every_steps=100), 2)
    codebook.ema_count.copy_(torch.tensor([1.0, 0.99**100, 0.5, 0.0]))

    health = health_of(codebook, np.array([3, 0, 1, 0]))

    assert health.dead == 0.5
    assert {metric.name: metric.value for metric in health.metrics()} == {
        "tokenizer/codes_used": 0.5,
        "tokenizer/perplexity": pytest.approx(4 / 3**0.75),
        "tokenizer/codes_dead": 0.5,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("used.fail=0.9", "used must warn before it fails, got warn = 0.5 and fail = 0.9"),
        ("dead.fail=0.1", "dead must warn before it fails, got warn = 0.3 and fail = 0.1"),
        ("used.warn=1.2", r"health\.used\.warn: input should be less than or equal to 1"),
        ("usage.warn=0.2", "unknown key tokenizer.health.usage; did you mean used"),
    ],
)
def test_limits_that_make_no_sense_are_refused(override: str, message: str) -> None:
    values = apply_overrides(
        load_recipe("starter").model_dump(mode="json"), [f"tokenizer.health.{override}"]
    )

    with pytest.raises(ConfigError, match=message):
        recipe_of(values)
