import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.evaluation.choice import ChosenSet, ItemScores
from interloom.evaluation.intervals import Estimate
from interloom.evaluation.measures import Measure
from interloom.evaluation.pairing import Paired, paired, scores_from_json, scores_to_json

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS)
def test_the_p_value_counts_the_coin_tosses_at_least_as_uneven(higher: int, lower: int) -> None:
    tosses = higher + lower

    found = Paired(1000, higher, lower).p_value

    uneven = [n for n in range(tosses + 1) if abs(2 * n - tosses) >= abs(higher - lower)]
    assert found == pytest.approx(sum(math.comb(tosses, n) for n in uneven) / 2**tosses)


def test_items_are_paired_by_their_ids() -> None:
    first = ItemScores("set", {"a": 1.0, "b": 0.0, "c": 0.0, "only first": 1.0})
    second = ItemScores("set", {"c": 1.0, "b": 0.0, "a": 0.0, "only second": 1.0})

    assert paired(first, second) == Paired(num_items=3, num_higher=1, num_lower=1)


def test_scores_on_other_sets_are_not_paired() -> None:
    assert paired(ItemScores("one", {"a": 1.0}), ItemScores("other", {"a": 0.0})) is None


def test_the_codes_of_an_item_do_not_make_its_set_another() -> None:
    rows = [[{"id": "a", "text": "hello", "codes": codes}] for codes in ([1, 2], [3])]
    first, second = (ChosenSet("x", tuple(held), 1).scores(held, [1.0]) for held in rows)

    assert paired(first, second) == Paired(1, 0, 0)


def test_scores_are_read_back_as_they_were_written() -> None:
    scores = ItemScores("set", {"a": 2.0, "ä": 0.0})
    estimate = Estimate(0.5, 0.1, 0.9, 2)
    measures = [Measure("tokenizer/wer", estimate, scores), Measure("other", estimate)]

    assert scores_from_json(scores_to_json(measures)) == {"tokenizer/wer": scores}
