"""Words to codes: where they are found, how surely, and what is refused."""

import numpy as np
import pytest

from interloom.core.spans import Span
from interloom.speech_tokenizer.alignment import Heard, align_words, loud_codes

BLANK = 3


def _heard(likely: list[int], *, sure: float = 0.9, is_loud: list[bool] | None = None) -> Heard:
    """A head that gives each place one label; 10 places a second."""
    rest = (1 - sure) / 3
    rows = [[sure if label == one else rest for label in range(4)] for one in likely]
    loud = np.ones(len(likely), np.bool_) if is_loud is None else np.array(is_loud)
    return Heard(np.log(np.array(rows, np.float32)), loud, 1600)


def test_words_are_found_where_their_labels_are() -> None:
    heard = _heard([3, 0, 0, 1, 3, 2, 2], is_loud=[False, True, True, True, False, True, True])

    words = align_words(heard, ["ab", "c"], [[0, 1], [2]], blank=BLANK)

    assert [one.span for one in words] == [Span(1600, 6400), Span(8000, 11_200)]
    assert [one.confidence for one in words] == pytest.approx([0.9, 0.9])
    assert [one.refusal for one in words] == ["", ""]
    assert [one.parts for one in words] == [
        (Span(1600, 4800), Span(4800, 6400)),
        (Span(8000, 11_200),),
    ]


def test_a_word_lasts_as_long_as_it_is_loud() -> None:
    is_loud = [True, True, True, False, True, True]

    words = align_words(
        _heard([0, 3, 3, 3, 1, 3], is_loud=is_loud), ["a", "b"], [[0], [1]], blank=BLANK
    )

    assert [one.span for one in words] == [Span(0, 4800), Span(6400, 9600)]


def test_a_word_that_was_not_heard_is_refused() -> None:
    (word,) = align_words(_heard([3, 3, 3], sure=0.97), ["a"], [[0]], blank=BLANK)

    assert word.refusal == "confidence 0.01 is under 0.15"


def test_a_word_of_many_seconds_is_refused() -> None:
    (word,) = align_words(_heard([0] * 2980), ["a"], [[0]], blank=BLANK)

    assert word.refusal == "it would last 298.0 s, and 1 letters last 0.8 s"


def test_a_word_in_silence_is_refused() -> None:
    heard = _heard([3, 0, 3], is_loud=[False, False, False])

    (word,) = align_words(heard, ["a"], [[0]], blank=BLANK)

    assert word.refusal == "it would be said in silence"


def test_codes_within_thirty_decibels_of_the_loudest_are_loud() -> None:
    level = np.repeat([0.0, 0.5, 0.02, 0.01], 100)

    assert loud_codes(level.astype(np.float32), 100).tolist() == [False, True, True, False]
    assert loud_codes(np.zeros(150, np.float32), 100).tolist() == [False, False]
    assert loud_codes(np.zeros(0, np.float32), 100).tolist() == []
