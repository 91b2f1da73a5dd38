from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from interloom.config.interleaving import (
    FineAlternation,
    InterleavingConfig,
    PoissonSpans,
    SentenceAlternation,
    SpanPolicy,
    TextThenSpeech,
)
from interloom.core.errors import ConfigError
from interloom.interleaving.policies import Document, Policy, make_policy
from interloom.interleaving.sampling import WordSpans, document_stream
from interloom.text.words import find_words

CONFIGS = (
    PoissonSpans(),
    PoissonSpans(speech_ratio=0.6, mean_words=2),
    TextThenSpeech(),
    TextThenSpeech(min_text_words=2, max_text_words=4, speech_per_text=2),
    FineAlternation(text_words=3, speech_words=2),
    FineAlternation(text_words=1, speech_words=1),
    SentenceAlternation(),
)
MAX_WORDS = 25


def document(text: str) -> Document:
    return Document(find_words(text), text.encode())


def prose(num_words: int, sentence: int = 7) -> Document:
    words = [f"w{at}" + ("." if at % sentence == sentence - 1 else "") for at in range(num_words)]
    return document(" ".join(words))


def spans_of(policy: Policy, text: Document, name: str = "d") -> WordSpans:
    return policy.choose(text, document_stream(0, name))


def pairs(spans: WordSpans) -> list[tuple[int, int]]:
    return list(zip(spans.start.tolist(), spans.stop.tolist(), strict=True))


@pytest.mark.parametrize("config", CONFIGS)
@given(st.integers(1, 300), st.integers(0, 10**6))
def test_spans_of_every_policy_are_in_order_apart_and_inside(
    config: SpanPolicy, num_words: int, name: int
) -> None:
    policy, text = make_policy(config, MAX_WORDS), prose(num_words)
    if policy.is_too_short(num_words):
        return

    spans = spans_of(policy, text, str(name))

    assert (spans.start < spans.stop).all()
    assert (spans.start >= 0).all()
    assert (spans.stop <= num_words).all()
    assert (spans.start[1:] > spans.stop[:-1]).all()
    if not isinstance(config, PoissonSpans):  # where there is no room, its spans are joined
        assert (spans.stop - spans.start <= MAX_WORDS).all()


@pytest.mark.parametrize("config", CONFIGS)
def test_a_policy_chooses_as_many_words_as_it_lets_expect(config: SpanPolicy) -> None:
    policy = make_policy(config, MAX_WORDS)
    texts = [prose(size) for size in (33, 61, 100)]
    expected = sum(policy.expected_words(text) for text in texts)

    chosen = [
        sum(spans_of(policy, text, f"{at}/{draw}").num_words for at, text in enumerate(texts))
        for draw in range(400)
    ]

    assert np.mean(chosen) == pytest.approx(expected, rel=0.03)


@given(st.text(), st.sampled_from(CONFIGS))
def test_any_text_is_cut_between_words(text: str, config: SpanPolicy) -> None:
    policy, words = make_policy(config, MAX_WORDS), find_words(text)
    if policy.is_too_short(len(words)):
        return

    spans = policy.choose(Document(words, text.encode()), document_stream(0, "d"))

    assert all(0 <= start < stop <= len(words) for start, stop in pairs(spans))


def test_fine_alternation_has_whole_turns_but_for_the_ends() -> None:
    policy = make_policy(FineAlternation(text_words=3, speech_words=2), MAX_WORDS)
    seen = {tuple(pairs(spans_of(policy, prose(10), str(at)))) for at in range(100)}

    assert seen == {
        ((3, 5), (8, 10)),
        ((2, 4), (7, 9)),
        ((1, 3), (6, 8)),
        ((0, 2), (5, 7)),
        ((0, 1), (4, 6), (9, 10)),
    }
    spans = next(s for at in range(100) if len(s := spans_of(policy, prose(10), str(at))) == 3)
    assert spans.is_cut.tolist() == [True, False, True]


def test_every_other_sentence_is_spoken() -> None:
    policy = make_policy(SentenceAlternation(), MAX_WORDS)
    text = document('The cat sat. "Did it?" Yes\u3002\u4f60\u597d\uff01 It was 3.5 m\n\nA new one')
    words = [
        text.data[a:b].decode() for a, b in zip(text.words.start, text.words.stop, strict=True)
    ]
    seen = {tuple(pairs(spans_of(policy, text, str(at)))) for at in range(30)}

    told = {tuple(" ".join(words[a:b]) for a, b in spans) for spans in seen}
    assert told == {
        ("The cat sat.", "Yes\u3002", "It was 3.5 m"),
        ('"Did it?"', "\u4f60 \u597d\uff01", "A new one"),
    }


def test_a_sentence_that_is_too_long_stays_text() -> None:
    policy = make_policy(SentenceAlternation(), 5)

    assert {tuple(pairs(spans_of(policy, prose(14), str(at)))) for at in range(20)} == {()}
    assert policy.expected_words(prose(14)) == 0
    assert pairs(spans_of(policy, document("no end at all here"))) == []


def test_speech_is_half_as_long_as_the_text_before_it() -> None:
    policy = make_policy(TextThenSpeech(), MAX_WORDS)
    for name in range(50):
        spans = pairs(spans_of(policy, prose(300), str(name)))
        edges = [0, *(edge for span in spans for edge in span)]
        for before, start, stop in zip(edges[::2], edges[1::2], edges[2::2], strict=False):
            if start and stop < 297:
                assert 5 <= start - before <= 30
                assert stop - start == max(2, (start - before) // 2)


def test_characters_without_spaces_make_longer_spans() -> None:
    policy = make_policy(PoissonSpans(mean_words=10), 60)
    spaced, unspaced = prose(3000), document("\u4f60" * 3000)

    lengths = [
        np.mean((spans.stop - spans.start)[~spans.is_cut])
        for spans in (spans_of(policy, text) for text in (spaced, unspaced))
    ]

    assert lengths == pytest.approx([10, 16], rel=0.1)


def test_a_policy_has_a_name_and_a_version() -> None:
    names = {make_policy(config, MAX_WORDS).name for config in CONFIGS}

    assert names == {"poisson-1", "text_then_speech-1", "fine-1", "sentences-1"}


def test_a_span_that_no_span_may_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="speech_words is 9, but a span holds at most 8 words"):
        make_policy(FineAlternation(speech_words=9), 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "poisson", "speech_ratio": 0}, "greater than 0"),
        ({"kind": "poisson", "speech_ratio": 1}, "less than 1"),
        ({"kind": "poisson", "speech_ratio": 1.5}, "less than 1"),
        ({"kind": "poisson", "mean_words": 0}, "greater than 0"),
        ({"kind": "poisson", "version": 2}, "Input should be 1"),
        ({"kind": "fine", "text_words": 0}, "greater than 0"),
        ({"kind": "text_then_speech", "min_text_words": 40}, "at most max_text_words = 30, got 40"),
        ({"kind": "waltz"}, "waltz"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(InterleavingConfig).validate_python({"policy": values})
