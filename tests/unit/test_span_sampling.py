import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.interleaving.sampling import SpanRule, WordSpan, choose_spans, document_stream

P1 = SpanRule(ratio=0.3, mean_words=10, max_words=41)


def choose(num_words: int, rule: SpanRule = P1, document: str = "d") -> tuple[WordSpan, ...]:
    return choose_spans(num_words, rule, document_stream(0, document))


@given(
    st.integers(0, 2000),
    st.floats(0.05, 0.95),
    st.floats(0.5, 30),
    st.integers(1, 60),
    st.integers(0, 10**6),
)
def test_spans_are_disjoint_untouching_and_of_the_asked_sum(
    num_words: int, ratio: float, mean: float, longest: int, document: int
) -> None:
    spans = choose(num_words, SpanRule(ratio, mean, longest), str(document))

    spoken = sum(span.stop - span.start for span in spans)
    if num_words < math.ceil(1 / ratio):
        assert not spans
    else:
        assert math.floor(ratio * num_words) <= spoken <= math.floor(ratio * num_words) + 1
    assert all(0 <= span.start < span.stop <= num_words for span in spans)
    assert all(after.start > before.stop for before, after in pairwise(spans))
    assert sum(span.cut for span in spans) <= 1


def test_the_share_is_right_on_average_over_short_documents() -> None:
    spoken = [sum(s.stop - s.start for s in choose(9, document=str(i))) for i in range(4000)]

    assert np.mean(spoken) == pytest.approx(0.3 * 9, abs=0.03)


def test_lengths_are_poisson_without_zero() -> None:
    spans = [span for i in range(300) for span in choose(2000, document=str(i))]
    lengths = [span.stop - span.start for span in spans if not span.cut]

    assert np.mean(lengths) == pytest.approx(10 / (1 - math.exp(-10)), abs=0.1)
    assert np.var(lengths) == pytest.approx(10, abs=0.5)


def test_every_word_is_spoken_about_as_often() -> None:
    counts = np.zeros(100)
    for i in range(4000):
        for span in choose(100, document=str(i)):
            counts[span.start : span.stop] += 1

    assert counts.mean() / 4000 == pytest.approx(0.3, abs=0.01)
    assert counts[10:90].std() / counts[10:90].mean() < 0.05


def test_a_document_is_sampled_alike_whatever_stands_before_it() -> None:
    assert choose(500, document="a") == choose(500, document="a")
    assert choose(500, document="a") != choose(500, document="b")


def test_a_document_too_short_for_one_word_is_left_alone() -> None:
    assert P1.min_document_words == 4
    assert choose(3) == ()
    assert all(choose(4, document=str(i)) for i in range(50))


def test_a_cut_span_is_marked() -> None:
    spans = choose(20, SpanRule(ratio=0.3, mean_words=50, max_words=100))

    assert [span.cut for span in spans] == [True]
    assert spans[0].stop - spans[0].start in {6, 7}
