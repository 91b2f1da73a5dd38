"""Rows are broken on purpose, each way, and each way is seen by the check that is meant for it."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from interloom.config.text_to_token import SynthesisConfig
from interloom.interleaving.sampling import SpanRule
from interloom.interleaving.weaving import Weaver, plan_document
from interloom.quality.interleaved import (
    EXPECTATIONS,
    AlignmentCheck,
    shard_expectations,
    shard_summary,
)
from interloom.testing.gate import PlainGate
from interloom.testing.toy_speech import CODEBOOK_SIZE, ToySpeaker, document_row
from interloom.text.bpe import TextTokenizer
from interloom.text.words import find_words
from interloom.vocabulary.layout import Marker, VocabularyLayout

DOCUMENTS = [document_row(index, num_words=40) for index in range(12)]
TOKENIZER = TextTokenizer.train([row["text"] for row in DOCUMENTS], vocab_size=300)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, CODEBOOK_SIZE, "a" * 64, "b" * 64)
LIMITS = SynthesisConfig(max_tokens_per_word=16, slack_tokens=2)
CHECK = AlignmentCheck(TOKENIZER, LAYOUT, LIMITS)

Row = dict[str, Any]


def make_rows() -> list[Row]:
    rule = SpanRule(ratio=0.4, mean_words=4, max_words=10)
    plans = [plan_document(document, rule, seed=0) for document in DOCUMENTS]
    speaker = ToySpeaker()
    return Weaver(TOKENIZER, LAYOUT).weave(
        plans, [speaker.synthesise(plan.requests()) for plan in plans]
    )


ROWS = make_rows()


def broken_checks(row: Row) -> set[str]:
    """The checks that a row breaks between two good ones; the good ones must break none."""
    rows = [ROWS[0], row, ROWS[2]]
    verdicts = PlainGate().judge("s", EXPECTATIONS, CHECK.summarise(rows), ["0", "1", "2"])
    assert all(set(verdict.failed_rows) <= {"1"} for verdict in verdicts)
    return {verdict.expectation for verdict in verdicts if not verdict.success}


def reach_out(row: Row) -> None:
    row["spans"][-1]["byte_stop"] = len(row["text"].encode()) + 1


def reach_out_of_ids(row: Row) -> None:
    row["spans"][-1]["id_stop"] = len(row["ids"]) + 1


def swap_spans(row: Row) -> None:
    row["spans"][0], row["spans"][1] = row["spans"][1], row["spans"][0]


def overlap(row: Row) -> None:
    row["spans"][1]["word_start"] = row["spans"][0]["word_stop"] - 1


def touch(row: Row) -> None:
    row["spans"][1]["word_start"] = row["spans"][0]["word_stop"]


def lose_a_code(row: Row) -> None:
    row["spans"][0]["num_codes"] -= 1


def lose_a_marker(row: Row) -> None:
    row["ids"][row["spans"][0]["id_start"]] = LAYOUT.speech_offset


def add_a_marker(row: Row) -> None:
    row["ids"].append(LAYOUT.marker(Marker.AUDIO_BEGIN))


def leave_the_vocabulary(row: Row) -> None:
    row["ids"][row["spans"][0]["id_start"] + 1] = LAYOUT.size


def speak_outside(row: Row) -> None:
    row["ids"].append(LAYOUT.speech_offset)


def write_inside(row: Row) -> None:
    row["ids"][row["spans"][0]["id_start"] + 1] = 7


def change_the_text(row: Row) -> None:
    row["text"] = row["text"][:-1] + "x"


def shift_the_bytes(row: Row) -> None:
    row["spans"][0]["byte_start"] -= 1


def speak_too_much(row: Row) -> None:
    span = row["spans"][-1]
    place, more = span["id_start"] + 1, LIMITS.max_tokens
    row["ids"][place:place] = [LAYOUT.speech_offset] * more
    span["id_stop"] += more
    span["num_codes"] += more


def speak_too_little(row: Row) -> None:
    span = max(row["spans"], key=lambda one: int(one["word_stop"] - one["word_start"]))
    less = span["num_codes"] - 1
    del row["ids"][span["id_start"] + 1 : span["id_start"] + 1 + less]
    span["num_codes"] = 1
    for one in row["spans"]:
        one["id_stop"] -= less if one["id_stop"] >= span["id_stop"] else 0
        one["id_start"] -= less if one["id_start"] > span["id_start"] else 0


def speak_nothing(row: Row) -> None:
    row["ids"] = TOKENIZER.encode(row["text"])
    for span in row["spans"]:
        span["outcome"] = "loop"


@pytest.mark.parametrize(
    ("damage", "claim"),
    [
        (reach_out, "spans lie within their document"),
        (reach_out_of_ids, "spans lie within their document"),
        (swap_spans, "spans are in order and disjoint"),
        (overlap, "spans are in order and disjoint"),
        (touch, "no two spans touch"),
        (lose_a_code, "each span holds as many codes as it says"),
        (lose_a_marker, "each span stands between its markers"),
        (add_a_marker, "each span stands between its markers"),
        (leave_the_vocabulary, "ids are of the vocabulary"),
        (speak_outside, "speech stands in spans only, and text outside them"),
        (write_inside, "speech stands in spans only, and text outside them"),
        (change_the_text, "the text is rebuilt byte for byte"),
        (shift_the_bytes, "the text is rebuilt byte for byte"),
        (speak_too_much, "no span is too long for its words"),
        (speak_too_little, "no span is too short for its words"),
        (speak_nothing, "something is spoken"),
    ],
)
def test_each_way_of_breaking_a_row_is_seen(damage: Callable[[Row], None], claim: str) -> None:
    row = deepcopy(ROWS[1])
    damage(row)

    assert claim in broken_checks(row)


def test_good_rows_break_nothing() -> None:
    verdicts = PlainGate().judge(
        "s", EXPECTATIONS, CHECK.summarise(ROWS), [row["id"] for row in ROWS]
    )

    assert [verdict.expectation for verdict in verdicts if not verdict.success] == []


def test_no_rows_break_nothing() -> None:
    verdicts = PlainGate().judge("s", EXPECTATIONS, CHECK.summarise([]), [])

    assert all(verdict.success for verdict in verdicts)


def test_a_shard_whose_spans_were_refused_is_seen() -> None:
    rows = deepcopy(ROWS)
    for row in rows[::2]:
        speak_nothing(row)
    words = [len(find_words(row["text"])) for row in rows]
    expected = shard_expectations(tolerance=0.05, max_refused=0.3)

    as_asked, refused = PlainGate().judge("s", expected, shard_summary(rows, words, 0.4), ["shard"])

    assert as_asked.success
    assert not refused.success


def test_a_shard_that_chooses_less_than_asked_is_seen() -> None:
    words = [len(find_words(row["text"])) for row in ROWS]
    expected = shard_expectations(tolerance=0.05, max_refused=0.3)

    as_asked, _ = PlainGate().judge("s", expected, shard_summary(ROWS, words, 0.4), ["shard"])
    too_few, _ = PlainGate().judge("s", expected, shard_summary(ROWS, words, 0.6), ["shard"])

    assert as_asked.success
    assert not too_few.success
    assert too_few.failed_rows == ("shard",)
