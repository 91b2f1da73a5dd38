"""Units of work, recordings as a source of codes, and evaluation texts."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.config.interleaving import Decontamination, FineAlternation
from interloom.core.artifacts import ArtifactKind
from interloom.corpora.tables import DOCUMENTS, write_table
from interloom.interleaving.decontamination import Contamination, plain_words
from interloom.interleaving.policies import make_policy
from interloom.interleaving.speaking import Recorded, sample
from interloom.interleaving.units import Corpus, Taking
from interloom.interleaving.weaving import plan_document
from interloom.testing.store import MemoryStore
from interloom.testing.toy_speech import document_row, read, speak, token_row
from interloom.text_to_token.spans import SpanResult

PATIENT = settings(max_examples=40, deadline=None)
ALL = Taking(share=1, seed=0, max_documents=None, unit_documents=1000, unit_bytes=10**6)


def corpus(rows: list[dict[str, Any]], taking: Taking = ALL, per_shard: int = 7) -> Corpus:
    store = MemoryStore()
    with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        write_table(draft, "documents", DOCUMENTS, rows, rows_per_shard=per_shard)
        ref = draft.commit(licences=["CC0-1.0"])
    return Corpus(store, ref, "documents", taking)


@PATIENT
@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=40),
    st.integers(1, 9),
    st.integers(1, 400),
    st.one_of(st.none(), st.integers(1, 30)),
)
def test_units_hold_every_document_that_is_taken_once_and_in_order(
    shapes: list[tuple[int, bool]], documents: int, num_bytes: int, most: int | None
) -> None:
    rows = [
        document_row(at, num_words=size, may_interleave=may)
        for at, (size, may) in enumerate(shapes)
    ]
    taking = Taking(1, 0, most, documents, num_bytes)
    made = corpus(rows, taking)

    units = list(made.units())

    read_back = [[row["id"] for row in made.read(unit)] for unit in units]
    wanted = [row for row in rows if row["may_interleave"]]
    assert [name for some in read_back for name in some] == [row["id"] for row in wanted[:most]]
    assert [unit.index for unit in units] == list(range(len(units)))
    assert all(1 <= len(some) <= documents for some in read_back)
    assert sum(made.not_taken.values()) == len(rows) - len(wanted[:most])
    sizes = {row["id"]: len(row["text"].encode()) for row in rows}
    assert all(len(some) == 1 or sum(map(sizes.get, some)) <= num_bytes for some in read_back)  # type: ignore[arg-type]


def test_documents_that_are_not_taken_are_counted_by_reason() -> None:
    rows = [document_row(at, num_words=9, may_interleave=at % 3 > 0) for at in range(30)]
    made = corpus(rows, Taking(0.5, 0, 4, 1000, 10**6))

    [unit] = made.units()

    assert len(list(made.read(unit))) == 4
    assert made.not_taken["stays written"] == 10
    assert made.not_taken["not drawn"] + made.not_taken["beyond max_documents"] == 16


def utterance(**changes: Any) -> dict[str, Any]:
    return token_row(3, num_words=12) | changes


def test_recorded_spans_hold_the_codes_of_their_words() -> None:
    row = utterance()
    plan = plan_document(row, make_policy(FineAlternation(text_words=2, speech_words=3), 9), seed=0)

    [results] = Recorded(99).speak([plan], None)  # type: ignore[arg-type]

    said = [read(result.codes.tolist()) for result in results]
    assert said == [request.text for request in plan.requests()]
    assert [result.span_id for result in results] == plan.span_ids


def test_a_silence_is_halved_between_speech_and_text() -> None:
    words = [
        {"word": "a", "start": 0, "stop": 2},
        {"word": "b", "start": 6, "stop": 8},
        {"word": "c", "start": 9, "stop": 11},
    ]
    row = {"id": "u", "text": "a b c", "words": words, "codes": list(range(13))}
    policy = make_policy(FineAlternation(text_words=1, speech_words=1), 9)
    plans = [plan_document(row | {"id": str(at)}, policy, seed=0) for at in range(8)]

    cut = {
        tuple(tuple(one.codes.tolist()) for one in Recorded(99).speak([plan], None)[0])  # type: ignore[arg-type]
        for plan in plans
    }

    assert cut == {((4, 5, 6, 7),), ((0, 1, 2, 3), (8, 9, 10, 11, 12))}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"words": []}, "no word times"),
        ({"text": "one two"}, "word times do not fit the text"),
        ({"codes": [1, 2, 3]}, "not aligned"),
        ({"words": utterance()["words"][::-1]}, "not aligned"),
    ],
)
def test_a_recording_that_cannot_be_cut_is_left_out_with_its_reason(
    changes: dict[str, Any], reason: str | None
) -> None:
    assert Recorded(max_word_frames=15).refusal(utterance(**changes)) == reason


def test_words_that_share_a_code_can_be_cut_apart() -> None:
    words = [{"word": "a", "start": 0, "stop": 3}, {"word": "b", "start": 2, "stop": 5}]
    row = {"id": "u", "text": "a b", "words": words, "codes": list(range(5))}

    assert Recorded(max_word_frames=9).refusal(row) is None


def test_a_word_of_implausible_length_was_not_aligned() -> None:
    assert Recorded(max_word_frames=4).refusal(utterance()) == "not aligned"


def test_a_sample_depends_on_the_ids_and_takes_spoken_spans_only() -> None:
    results = [
        SpanResult(f"d/{at}", np.array(speak("ab")), reason="" if at % 4 else "loop", attempts=1)
        for at in range(40)
    ]

    chosen = {results[at].span_id for at in sample(results, 7)}

    assert len(chosen) == 7
    assert {results[::-1][at].span_id for at in sample(results[::-1], 7)} == chosen
    assert len(sample(results, 100)) == 30


STORY = "Anna walked to the old mill by the river and gave the black dog some bread."
RULE = Decontamination(ngram_words=6, min_words=3)


def test_a_run_of_words_is_found_whatever_its_case_and_punctuation() -> None:
    found = Contamination([STORY], RULE)

    assert found.holds("So ANNA, walked to -- the old: mill!")
    assert not found.holds("Anna walked to the new mill by a river")
    assert not found.holds("walked to the old mill")
    assert not found.holds("")


def test_a_short_text_is_found_as_a_whole_and_a_very_short_one_never() -> None:
    found = Contamination(["who has the bread", "no, no"], RULE)

    assert found.holds("and who has the bread?")
    assert not found.holds("who has the cake")
    assert not found.holds("no no")
    assert not Contamination([], RULE).holds(STORY)


def test_scripts_without_spaces_are_compared_by_character() -> None:
    found = Contamination(["\u6211\u4eca\u5929\u53bb\u5b66\u6821\u3002"], RULE)

    assert found.holds("\u6628\u5929\uff0c\u6211\u4eca\u5929\u53bb\u5b66\u6821")
    assert not found.holds("\u6211\u660e\u5929\u53bb\u5b66\u6821")


@given(
    st.lists(st.sampled_from("abcde"), max_size=40), st.lists(st.sampled_from("abcdx"), max_size=60)
)
def test_matches_are_those_of_a_plain_search(evaluation: list[str], text: list[str]) -> None:
    found = Contamination([" ".join(evaluation)], RULE)
    size = min(6, len(evaluation))
    runs = {tuple(evaluation[at : at + size]) for at in range(len(evaluation) - size + 1)}
    seen = {tuple(text[at : at + size]) for at in range(len(text) - size + 1)}

    assert found.holds(" ".join(text)) == (size >= 3 and bool(runs & seen))


def test_plain_words_have_no_case_punctuation_or_apostrophes() -> None:
    assert plain_words("Don\u2019t stop - it's \ufb01ne!") == ["dont", "stop", "its", "fine"]
