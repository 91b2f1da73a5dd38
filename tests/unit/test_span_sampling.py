import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.interleaving.sampling import (
    SpanRule,
    WordSpans,
    choose_spans,
    document_stream,
    expected_lengths,
    length_chances,
)
from interloom.quality.shards import length_deviation

P1 = SpanRule(ratio=0.3, mean_words=10, max_words=41)


def choose(num_words: int, rule: SpanRule = P1, document: str = "d") -> WordSpans:
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

    if num_words < math.ceil(1 / ratio):
        assert not len(spans)
    else:
        least = math.floor(ratio * num_words)
        assert least <= spans.num_words <= least + 1
    assert (spans.start >= 0).all()
    assert (spans.start < spans.stop).all()
    assert (spans.stop <= num_words).all()
    assert (spans.start[1:] > spans.stop[:-1]).all()
    assert spans.is_cut.sum() <= 1


def test_the_share_is_right_on_average_over_short_documents() -> None:
    spoken = [choose(9, document=str(i)).num_words for i in range(4000)]

    assert np.mean(spoken) == pytest.approx(0.3 * 9, abs=0.03)


@pytest.mark.parametrize("ratio", [0.2, 0.3, 0.4, 0.5])
def test_over_a_hundred_thousand_words_the_share_is_right_to_half_a_point(ratio: float) -> None:
    rng = np.random.Generator(np.random.Philox(key=1))
    rule = SpanRule(ratio, 10, 41)
    sizes = rng.integers(rule.min_document_words, 200, 1000).tolist()

    chosen = sum(choose(size, rule, str(at)).num_words for at, size in enumerate(sizes))

    assert sum(sizes) > 95_000
    assert chosen / sum(sizes) == pytest.approx(ratio, abs=0.005)


def test_lengths_are_poisson_without_zero() -> None:
    spans = [choose(2000, document=str(i)) for i in range(300)]
    lengths = np.concatenate([(one.stop - one.start)[~one.is_cut] for one in spans])

    assert np.mean(lengths) == pytest.approx(10 / (1 - math.exp(-10)), abs=0.1)
    assert np.var(lengths) == pytest.approx(10, abs=0.5)


def test_the_chances_of_lengths_sum_to_one_and_the_last_takes_all_that_is_longer() -> None:
    chances = length_chances(SpanRule(0.3, mean_words=2, max_words=3))

    assert chances.sum() == pytest.approx(1)
    assert chances[0] == 0
    # Poisson(2) without 0: 1 and 2 have 2 e^-2 / (1 - e^-2) each, the rest has 3
    assert chances[1] == pytest.approx(2 * math.exp(-2) / (1 - math.exp(-2)))
    assert chances[2] == pytest.approx(chances[1])


def test_the_lengths_expected_of_uncut_spans_are_exact() -> None:
    # A target of 2 words, lengths 1 or 2 with chances p and 1 - p: both spans of 1, or one of 2,
    # or one of 1 and one that is cut.
    rule = SpanRule(0.3, mean_words=1, max_words=2)
    p = float(length_chances(rule)[1])

    assert expected_lengths([2], rule).tolist() == pytest.approx([0, p + p * p, 1 - p])
    assert expected_lengths([], rule).tolist() == [0, 0, 0]


@pytest.mark.parametrize("num_words", [100, 130, 700])
def test_spans_deviate_from_what_is_expected_as_chance_has_it(num_words: int) -> None:
    spans = [choose(num_words, document=str(i)) for i in range(1500)]
    uncut = np.concatenate([(one.stop - one.start)[~one.is_cut] for one in spans])
    seen = np.bincount(uncut, minlength=P1.max_words + 1).astype(float)

    expected = expected_lengths([one.num_words for one in spans], P1)

    assert length_deviation(seen, expected) < 3
    other = SpanRule(0.3, mean_words=11, max_words=41)
    assert length_deviation(seen, expected_lengths([s.num_words for s in spans], other)) > 6


def test_every_word_is_spoken_about_as_often() -> None:
    counts = np.zeros(100)
    for i in range(4000):
        spans = choose(100, document=str(i))
        for start, stop in zip(spans.start, spans.stop, strict=True):
            counts[start:stop] += 1

    assert counts.mean() / 4000 == pytest.approx(0.3, abs=0.01)
    assert counts[10:90].std() / counts[10:90].mean() < 0.05


def test_a_document_is_sampled_alike_whatever_stands_before_it() -> None:
    one, again, other = (choose(500, document=name) for name in "aab")

    assert one.start.tolist() == again.start.tolist()
    assert one.start.tolist() != other.start.tolist()


def test_a_document_too_short_for_one_word_is_left_alone() -> None:
    assert P1.min_document_words == 4
    assert len(choose(3)) == 0
    assert all(len(choose(4, document=str(i))) for i in range(50))


def test_a_cut_span_is_marked() -> None:
    spans = choose(20, SpanRule(ratio=0.3, mean_words=50, max_words=100))

    assert spans.is_cut.tolist() == [True]
    assert spans.num_words in {6, 7}
