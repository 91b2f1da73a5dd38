from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.core.errors import DataError
from interloom.corpora.interleaved import rebuild
from interloom.interleaving.policies import Poisson
from interloom.interleaving.sampling import SpanRule, WordSpans
from interloom.interleaving.weaving import Plan, Provenance, Weaver, plan_document
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.spans import SpanResult
from interloom.vocabulary.layout import Marker, VocabularyLayout

TEXTS = ["the cat sat on the mat", "the dog saw the cat", "a cat and a dog"] * 4
TOKENIZER = TextTokenizer.train(TEXTS, vocab_size=300)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, 16, "a" * 64, "b" * 64)
MADE = Provenance("poisson-1", "text_to_token_model:c", "b" * 64, 3, "fp32", "none")
WEAVER = Weaver(TOKENIZER, LAYOUT, MADE)
OFTEN = Poisson("poisson-1", SpanRule(ratio=0.5, mean_words=2, max_words=9))


def document(text: str, name: str = "d") -> dict[str, Any]:
    return {"id": name, "split": "train", "text": text, "source": "s", "licence": "CC0-1.0"}


def spoken(span_id: str, codes: list[int]) -> SpanResult:
    return SpanResult(span_id, np.array(codes, np.int32), reason="", attempts=1)


def refused(span_id: str) -> SpanResult:
    return SpanResult(span_id, np.zeros(0, np.int32), reason="loop", attempts=3)


def planned(text: str, *spans: tuple[int, int, bool], at: list[tuple[int, int]]) -> Plan:
    starts, stops = np.array(at).T
    words = WordSpans.of(spans)
    return Plan(document(text), text.encode(), words, starts, stops, len(text.split()), 3.0)


def the_plan() -> Plan:
    spans = (1, 3, False), (5, 6, True)
    return planned("the cat sat on the mat", *spans, at=[(3, 11), (18, 22)])


def test_a_span_takes_the_space_before_it() -> None:
    plan = plan_document(document("the cat sat on the mat"), OFTEN, seed=1)
    words = zip(plan.words.start, plan.words.stop, strict=True)
    places = zip(plan.byte_start, plan.byte_stop, strict=True)

    assert len(plan.words)
    for (start, stop), (first, last), request in zip(words, places, plan.requests(), strict=True):
        assert plan.data[first:last].decode().lstrip() == request.text
        assert request.text == request.text.strip()
        assert request.span_id == f"d/{start}-{stop}"


def test_codes_stand_between_markers_in_the_place_of_their_words() -> None:
    begin, end = LAYOUT.marker(Marker.AUDIO_BEGIN), LAYOUT.marker(Marker.AUDIO_END)
    offset = LAYOUT.speech_offset

    [row] = WEAVER.weave([the_plan()], [[spoken("x", [1, 2, 3]), spoken("y", [4])]]).to_pylist()

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


def test_a_row_tells_how_its_codes_came_about() -> None:
    [row] = WEAVER.weave([the_plan()], [[spoken("x", [1]), spoken("y", [4])]]).to_pylist()

    assert (row["policy"], row["made_by"]) == ("poisson-1", "text_to_token_model:c")
    assert (row["tokenizer"], row["seed"]) == ("b" * 64, 3)
    assert (row["precision"], row["engine"]) == ("fp32", "none")
    assert (row["licence"], row["source"], row["num_words"]) == ("CC0-1.0", "s", 6)


def test_a_refused_span_stays_text_and_keeps_its_reason() -> None:
    [row] = WEAVER.weave([the_plan()], [[refused("x"), spoken("y", [4])]]).to_pylist()

    assert row["ids"][:-3] == TOKENIZER.encode("the cat sat on the")
    assert [s["outcome"] for s in row["spans"]] == ["loop", "spoken"]
    assert rebuild(row, TOKENIZER) == "the cat sat on the mat"


def some_results(plan: Plan, seed: int) -> list[SpanResult]:
    rng = np.random.Generator(np.random.Philox(key=seed))
    return [spoken(one, [3, 1]) if rng.random() < 0.8 else refused(one) for one in plan.span_ids]


@given(st.lists(st.text(), max_size=4), st.integers(0, 2**16))
def test_any_text_is_rebuilt_byte_for_byte(texts: list[str], seed: int) -> None:
    plans = [
        plan_document(document(text, str(at)), OFTEN, seed=seed) for at, text in enumerate(texts)
    ]

    table = WEAVER.weave(plans, [some_results(plan, seed) for plan in plans])

    rows = table.to_pylist()
    assert [rebuild(row, TOKENIZER) for row in rows] == texts
    assert [row["text"] for row in rows] == texts


def test_documents_woven_together_are_woven_as_alone() -> None:
    texts = ["the cat sat on the mat and the dog", "", "a dog saw a cat on a mat"]
    plans = [plan_document(document(text), OFTEN, seed=2) for text in texts]
    results = [some_results(plan, 5) for plan in plans]

    together = WEAVER.weave(plans, results).to_pylist()

    alone = [WEAVER.weave([plan], [some]) for plan, some in zip(plans, results, strict=True)]
    assert together == [row for table in alone for row in table.to_pylist()]


def test_a_code_of_another_codebook_is_refused() -> None:
    with pytest.raises(DataError, match=r"speech codes must lie in \[0, 16\)"):
        WEAVER.weave([the_plan()], [[spoken("x", [1]), spoken("y", [16])]])


def test_offsets_inside_a_character_are_refused() -> None:
    plan = planned("é é é é", (1, 2, False), at=[(2, 5)])
    [row] = WEAVER.weave([plan], [[spoken("x", [1])]]).to_pylist()
    row["spans"][0]["byte_start"] = 1

    with pytest.raises(DataError, match="row d: a span begins or ends inside a character"):
        rebuild(row, TOKENIZER)
