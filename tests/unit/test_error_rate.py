import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.config.evaluation import EvaluationConfig
from interloom.evaluation.error_rate import WordErrors, error_rate, holds_answer, word_errors
from interloom.evaluation.measures import Judging
from interloom.text.normalise import normalise

JUDGING = Judging(EvaluationConfig(num_resamples=10), seed=0)
SENTENCES = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "dog"]), min_size=1, max_size=9
).map(" ".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Cat, sat. ", "the cat sat"),
        ("Don\u2019t!", "dont"),
        ("twenty-one", "twenty one"),
        ("It has 21 legs", "it has twenty one legs"),
        ("CAFÉ", "café"),
        ("snake_case", "snake case"),
        ("...", ""),
    ],
)
def test_texts_are_compared_in_their_normal_form(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_a_normal_form_stays_as_it_is(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_errors_are_counted_as_edits_of_words() -> None:
    errors = word_errors("the cat sat on the mat", "a cat on the mat now")

    assert errors == WordErrors(num_edits=3, num_words=6)  # replaced, left out, put in


def test_words_said_into_silence_are_insertions() -> None:
    assert word_errors("...", "hello there") == WordErrors(num_edits=2, num_words=0)


def test_nothing_heard_is_all_words_left_out() -> None:
    assert word_errors("one two", "") == WordErrors(num_edits=2, num_words=2)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6))
def test_the_rate_of_a_set_is_jiwers(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [one for one, _ in pairs], [other for _, other in pairs]

    estimate = error_rate(references, hypotheses, JUDGING)

    assert estimate.value == pytest.approx(jiwer.wer(references, hypotheses))
    assert estimate.num_items == len(pairs)


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("She lives in the Red House.", ["red house"], True),
        ("She is bored.", ["red"], False),
        ("It is blue, I think", ["green", "Blue!"], True),
        ("anything", [""], False),
        ("he has 3 goats", ["three"], True),
    ],
)
def test_an_answer_counts_if_it_is_said_as_whole_words(
    text: str,
    answers: list[str],
    expected: bool,  # noqa: FBT001 - a case
) -> None:
    assert holds_answer(text, answers) is expected
