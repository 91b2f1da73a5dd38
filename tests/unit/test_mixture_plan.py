"""Tokens by source, and the order of draws."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from interloom.config.mixture import Epochs, MixtureConfig, Rest, Share, SourceConfig
from interloom.core.errors import ConfigError
from interloom.mixture.plan import draw_documents, plan_phases, plan_tokens

SIZES = {"text": 500, "speech": 100, "transcribe": 120, "speak": 120, "interleaved": 900}


def _config(**changes: object) -> MixtureConfig:
    return MixtureConfig.model_validate({"total_tokens": 1000} | changes)


def test_p1_is_30_percent_text_an_epoch_of_speech_and_the_rest_woven() -> None:
    asked = plan_tokens(_config(), SIZES)

    assert asked == {
        "text": 300,
        "speech": 100,
        "transcribe": 120,
        "speak": 120,
        "interleaved": 360,
    }


def test_a_source_that_would_repeat_too_often_is_refused() -> None:
    config = _config(text=SourceConfig(budget=Share(share=0.3), max_epochs=2))

    with pytest.raises(
        ConfigError, match=r"'text' has 100 tokens .* asks for 300 \(3\.00 epochs\).*max_epochs = 2"
    ):
        plan_tokens(config, SIZES | {"text": 100})


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'interleaved' has 0 tokens .*it is empty"):
        plan_tokens(_config(), SIZES | {"interleaved": 0})


def test_budgets_over_the_total_are_refused() -> None:
    config = _config(speech=SourceConfig(budget=Epochs(epochs=9), max_epochs=9))

    with pytest.raises(
        ConfigError, match=r"more than total_tokens = 1000: text 300 .*speech 900 .* 440 too many"
    ):
        plan_tokens(config, SIZES)


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"interleaved": None}, "0 sources \\(none\\)"),
        (
            {"text": {"budget": {"kind": "rest"}, "max_epochs": 8}},
            "2 sources \\(text, interleaved\\)",
        ),
    ],
)
def test_exactly_one_source_takes_the_rest(changes: Mapping[str, object], held: str) -> None:
    with pytest.raises(ConfigError, match=held):
        plan_tokens(_config(**changes), SIZES)


def test_the_source_that_lags_most_is_drawn_next() -> None:
    lengths = {"a": np.full(4, 10), "b": np.full(2, 10)}

    draws = draw_documents([{"a": 40, "b": 20}], lengths, seed=1)

    assert draws.sources_N.tolist() == [0, 1, 0, 0, 1, 0]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.floats(0.1, 3),
    st.integers(0, 1000),
)
def test_what_is_drawn_is_within_half_a_document_of_what_is_asked(
    first: list[int], second: list[int], epochs: float, seed: int
) -> None:
    lengths = {"a": np.array(first), "b": np.array(second)}
    asked = {"a": round(epochs * sum(first)), "b": sum(second)}

    draws = draw_documents([asked], lengths, seed)

    for index, name in enumerate(asked):
        own = draws.documents_N[draws.sources_N == index]
        assert abs(lengths[name][own].sum() - asked[name]) <= max(lengths[name])
        counts = np.bincount(own, minlength=len(lengths[name]))
        assert counts.max() - counts.min() <= 1
    assert sorted(draws.documents_N[draws.sources_N == 1].tolist()) == list(range(len(second)))


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(0, 1000),
)
def test_no_source_ever_lags_by_more_than_the_longest_documents(
    first: list[int], second: list[int], seed: int
) -> None:
    lengths = {"a": np.array(first), "b": np.array(second)}
    asked = {"a": 2 * sum(first), "b": sum(second)}

    draws = draw_documents([asked], lengths, seed)

    drawn = np.zeros((2, len(draws.sources_N) + 1))
    for number, name in enumerate(asked):
        own = draws.sources_N == number
        tokens = np.zeros(len(own))
        tokens[own] = lengths[name][draws.documents_N[own]]
        drawn[number, 1:] = np.cumsum(tokens)
    parts = np.array(list(asked.values())) / sum(asked.values())
    error = np.abs(drawn - parts[:, None] * drawn.sum(axis=0))
    assert error.max() <= max(first) + max(second)


PHASES = [
    {"share": 0.8, "interleaved": {"kind": "share", "share": 0}, "text": {"kind": "rest"}},
    {"share": 0.2, "text": {"kind": "share", "share": 0.1}, "speak": {"kind": "epochs"}},
]
SCHEDULED = {"phases": PHASES, "text": {"budget": {"kind": "share", "share": 0.3}, "max_epochs": 9}}


def test_a_phase_may_have_budgets_of_its_own() -> None:
    large = SIZES | {"speak": 60}

    early, late = plan_phases(
        _config(**SCHEDULED, speak={"budget": {"kind": "epochs"}, "max_epochs": 2}), large
    )

    assert early == {"text": 576, "speech": 80, "transcribe": 96, "speak": 48, "interleaved": 0}
    assert late == {"text": 20, "speech": 20, "transcribe": 24, "speak": 60, "interleaved": 76}


def test_a_sources_documents_go_on_from_phase_to_phase() -> None:
    lengths = {"a": np.full(10, 10), "b": np.full(10, 10)}

    draws = draw_documents([{"a": 60, "b": 20}, {"a": 40, "b": 80}], lengths, seed=1)

    assert draws.phase_ends == (8, 20)
    assert draws.sources_N[:8].tolist().count(0) == 6
    for number in (0, 1):
        assert sorted(draws.documents_N[draws.sources_N == number]) == list(range(10))


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"share": 0.5}], "shares of all phases must sum to 1, got 0.5"),
        ([{"share": 1.0, "speech": {"kind": "rest"}}], "budget for 'speech', which is no source"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(phases: list[object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _config(phases=phases, speech=None)


def test_a_phase_that_cannot_be_filled_is_named() -> None:
    phases = [{"share": 0.5}, {"share": 0.5, "speech": {"kind": "epochs", "epochs": 6.0}}]

    with pytest.raises(ConfigError, match=r"phase 1: the mixture asks for more than its tokens"):
        plan_phases(_config(phases=phases), SIZES)


def test_draws_of_a_source_do_not_hang_on_the_others() -> None:
    lengths = {"a": np.full(20, 10), "b": np.full(20, 10)}

    alone = draw_documents([{"a": 150}], {"a": lengths["a"]}, seed=5)
    beside = draw_documents([{"a": 150, "b": 90}], lengths, seed=5)

    assert alone.documents_N.tolist() == beside.documents_N[beside.sources_N == 0].tolist()


def test_the_rest_may_be_any_source() -> None:
    config = _config(interleaved=None, text=SourceConfig(budget=Rest(), max_epochs=2))

    assert plan_tokens(config, SIZES)["text"] == 660
