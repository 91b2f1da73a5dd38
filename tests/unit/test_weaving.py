from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.core.errors import DataError
from interloom.corpora.interleaved import rebuild
from interloom.interleaving.sampling import SpanRule, WordSpan
from interloom.interleaving.weaving import Plan, PlannedSpan, Weaver, plan_document
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.spans import SpanResult
from interloom.vocabulary.layout import Marker, VocabularyLayout

TEXTS = ["the cat sat on the mat", "the dog saw the cat", "a cat and a dog"] * 4
TOKENIZER = TextTokenizer.train(TEXTS, vocab_size=300)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, 16, "a" * 64, "b" * 64)
WEAVER = Weaver(TOKENIZER, LAYOUT)
OFTEN = SpanRule(ratio=0.5, mean_words=2, max_words=9)


def document(text: str) -> dict[str, Any]:
    return {"id": "d", "split": "train", "text": text, "source": "s", "licence": "CC0-1.0"}


def spoken(span_id: str, codes: list[int]) -> SpanResult:
    return SpanResult(span_id, np.array(codes, np.int32), reason="", attempts=1)


def refused(span_id: str) -> SpanResult:
    return SpanResult(span_id, np.zeros(0, np.int32), reason="loop", attempts=3)


def the_plan() -> Plan:
    text = document("the cat sat on the mat")
    return Plan(
        text,
        (
            PlannedSpan(WordSpan(1, 3, cut=False), 3, 11),
            PlannedSpan(WordSpan(5, 6, cut=True), 18, 22),
        ),
    )


def test_a_span_takes_the_space_before_it() -> None:
    plan = plan_document(document("the cat sat on the mat"), OFTEN, seed=1)
    data = plan.document["text"].encode()

    for span, request in zip(plan.spans, plan.requests(), strict=True):
        assert data[span.byte_start : span.byte_stop].decode().lstrip() == request.text
        assert request.text == request.text.strip()
        assert request.span_id == f"d/{span.words.start}-{span.words.stop}"


def test_codes_stand_between_markers_in_the_place_of_their_words() -> None:
    begin, end = LAYOUT.marker(Marker.AUDIO_BEGIN), LAYOUT.marker(Marker.AUDIO_END)
    offset = LAYOUT.speech_offset

    [row] = WEAVER.weave([the_plan()], [[spoken("x", [1, 2, 3]), spoken("y", [4])]])

    assert row["ids"] == [
        *TOKENIZER.encode("the"),
        *(begin, offset + 1, offset + 2, offset + 3, end),
        *TOKENIZER.encode(" on the"),
        *(begin, offset + 4, end),
    ]
    assert [(s["id_start"], s["id_stop"], s["num_codes"]) for s in row["spans"]] == [
        (len(TOKENIZER.encode("the")), len(TOKENIZER.encode("the")) + 5, 3),
        (len(row["ids"]) - 3, len(row["ids"]), 1),
    ]
    assert [s["cut"] for s in row["spans"]] == [False, True]


def test_a_refused_span_stays_text_and_keeps_its_reason() -> None:
    [row] = WEAVER.weave([the_plan()], [[refused("x"), spoken("y", [4])]])

    assert row["ids"][:-3] == TOKENIZER.encode("the cat sat on the")
    assert [s["outcome"] for s in row["spans"]] == ["loop", "spoken"]
    assert rebuild(row, TOKENIZER) == "the cat sat on the mat"


@given(st.text(), st.integers(0, 2**16))
def test_any_text_is_rebuilt_byte_for_byte(text: str, seed: int) -> None:
    plan = plan_document(document(text), OFTEN, seed=seed)
    rng = np.random.Generator(np.random.Philox(key=seed))
    results = [spoken(one, [3, 1]) if rng.random() < 0.8 else refused(one) for one in plan.span_ids]

    [row] = WEAVER.weave([plan], [results])

    assert rebuild(row, TOKENIZER) == text
    assert row["text"] == text


def test_offsets_inside_a_character_are_refused() -> None:
    plan = Plan(document("é é é é"), (PlannedSpan(WordSpan(1, 2, cut=False), 2, 5),))
    [row] = WEAVER.weave([plan], [[spoken("x", [1])]])
    row["spans"][0]["byte_start"] = 1

    with pytest.raises(DataError, match="row d: a span begins or ends inside a character"):
        rebuild(row, TOKENIZER)
