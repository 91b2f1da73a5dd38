"""Rows and shards are broken on purpose, each way, and each is seen by the check that is meant."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from interloom.config.interleaving import QualityLimits
from interloom.config.text_to_token import SynthesisConfig
from interloom.corpora.tables import INTERLEAVED
from interloom.interleaving.policies import Poisson
from interloom.interleaving.sampling import SpanRule
from interloom.interleaving.weaving import Provenance, Weaver, plan_document
from interloom.quality.interleaved import (
    EXPECTATIONS,
    IDENTITIES,
    AlignmentCheck,
    Target,
)
from interloom.quality.shards import (
    Natural,
    length_deviation,
    shard_expectations,
    shard_sums,
    whole_expectations,
    whole_sums,
)
from interloom.testing.gate import PlainGate
from interloom.testing.toy_speech import CODEBOOK_SIZE, ToySpeaker, document_row, speak
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import Marker, VocabularyLayout

DOCUMENTS = [document_row(index, num_words=40) for index in range(60)]
TOKENIZER = TextTokenizer.train([row["text"] for row in DOCUMENTS], vocab_size=300)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, CODEBOOK_SIZE, "a" * 64, "b" * 64)
LIMITS = SynthesisConfig(max_tokens_per_word=16, slack_tokens=2, max_tokens=160)
MADE = Provenance("poisson-1", "toy:1", "b" * 64, 0, "fp32", "toy")
ORIGIN: dict[str, str | int] = {
    "tokenizer": "b" * 64,
    "made_by": "toy:1",
    "policy": "poisson-1",
    "seed": 0,
}
CHECK = AlignmentCheck(TOKENIZER, LAYOUT, LIMITS, Target(0.4), ORIGIN)
POLICY = Poisson("poisson-1", SpanRule(ratio=0.4, mean_words=4, max_words=10))
EVERY = (*EXPECTATIONS, *IDENTITIES)
NATURAL = Natural(float(np.mean([len(speak(row["text"])) / 40 for row in DOCUMENTS])))
IDS_PER_WORD = float(np.mean([len(TOKENIZER.encode(row["text"])) / 40 for row in DOCUMENTS]))

Row = dict[str, Any]


def make_rows() -> list[Row]:
    plans = [plan_document(document, POLICY, seed=0) for document in DOCUMENTS]
    speaker = ToySpeaker()
    results = [speaker.synthesise(plan.requests()) for plan in plans]
    return list(Weaver(TOKENIZER, LAYOUT, MADE).weave(plans, results).to_pylist())


ROWS = make_rows()


def table_of(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=INTERLEAVED)


def broken_checks(row: Row) -> set[str]:
    """The checks that a row breaks between two good ones; the good ones must break none."""
    table = table_of([ROWS[0], row, ROWS[2]])
    verdicts = PlainGate().judge("s", EVERY, CHECK.summarise(table), ["0", "1", "2"])
    assert all(set(verdict.failed_rows) <= {"1"} for verdict in verdicts)
    return {verdict.expectation for verdict in verdicts if not verdict.success}


def move_ids(row: Row, at: int, by: int) -> None:
    """After ids were put in or taken out at ``at``, all offsets behind it move."""
    for span in row["spans"]:
        for end in ("id_start", "id_stop"):
            span[end] += by if span[end] > at else 0


def put_codes(row: Row, span: Row, codes: Sequence[int]) -> None:
    """Other codes in the place of a span's."""
    first, last = span["id_start"] + 1, span["id_stop"] - 1
    row["ids"][first:last] = [LAYOUT.speech_offset + code for code in codes]
    move_ids(row, first, len(codes) - (last - first))
    span["num_codes"] = len(codes)


def longest(row: Row) -> Row:
    return max(row["spans"], key=lambda one: int(one["num_codes"]))


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


def shift_the_words(row: Row) -> None:
    stops = [0, *(span["word_stop"] for span in row["spans"])]
    pairs = zip(row["spans"], stops, strict=False)
    span = next(span for span, before in pairs if span["word_start"] - before > 1)
    span |= {"word_start": span["word_start"] - 1, "word_stop": span["word_stop"] - 1}


def miscount_the_words(row: Row) -> None:
    row["num_words"] += 1


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


def lose_text(row: Row) -> None:
    del row["ids"][0]
    move_ids(row, 0, -1)


def shift_the_bytes(row: Row) -> None:
    row["spans"][0]["byte_start"] -= 1


def speak_too_much(row: Row) -> None:
    span = longest(row)
    put_codes(row, span, [(7 * at * at) % 31 for at in range(LIMITS.max_tokens + 1)])


def truncate(row: Row) -> None:
    put_codes(row, longest(row), [3])


def repeat(row: Row) -> None:
    span = longest(row)
    put_codes(row, span, ([5, 9, 5] * span["num_codes"])[: span["num_codes"]])


def rename_a_span(row: Row) -> None:
    row["spans"][0]["span_id"] = row["spans"][0]["span_id"].replace("document", "other")


def repeat_a_span(row: Row) -> None:
    row["spans"].insert(1, dict(row["spans"][0]))


def copy_codes(row: Row) -> None:
    one, two = sorted(row["spans"], key=lambda span: -span["num_codes"])[:2]
    first = row["ids"][one["id_start"] + 1 : one["id_stop"] - 1]
    put_codes(row, two, [code - LAYOUT.speech_offset for code in first])


def refuse_but_speak(row: Row) -> None:
    row["spans"][0]["outcome"] = "loop"


def refuse_without_reason(row: Row) -> None:
    stay_text(row, keep=1)
    row["spans"][0]["outcome"] = ""


def stay_text(row: Row, keep: int = 0) -> None:
    """Give back to the text all spans but the last ``keep``."""
    tokens = TOKENIZER.encode(row["text"])
    for span in row["spans"][: len(row["spans"]) - keep]:
        span |= {"outcome": "loop", "num_codes": 0, "id_start": 0, "id_stop": 0}
    if not keep:
        row["ids"] = tokens
        return
    span = row["spans"][-1]
    data = row["text"].encode()
    before = TOKENIZER.encode(data[: span["byte_start"]].decode())
    spoken = row["ids"][span["id_start"] :]
    row["ids"] = before + spoken
    span["id_stop"] += len(before) - span["id_start"]
    span["id_start"] = len(before)


def lose_a_span(row: Row) -> None:
    """A span of the plan is not in the row: its words are text, as if never chosen."""
    stay_text(row, keep=1)
    del row["spans"][:-1]


def cut_every_span(row: Row) -> None:
    for span in row["spans"]:
        span["cut"] = True


def lose_the_licence(row: Row) -> None:
    row["licence"] = ""


def take_another_tokenizer(row: Row) -> None:
    row["tokenizer"] = "c" * 64


def take_another_model(row: Row) -> None:
    row["made_by"] = "toy:2"


def take_another_policy(row: Row) -> None:
    row["policy"] = "poisson-0"


BOUNDS, ORDER = "spans lie within their document", "spans are in order and disjoint"
TOUCH, PLACE = "no two spans touch", "words and bytes of a span are the same place"
COUNT, MARKERS = "each span holds as many codes as it says", "each span stands between its markers"
APART = "speech stands in spans only, and text outside them"
REBUILT, NAME = "the text is rebuilt byte for byte", "a span's id tells its document and words"
LONG, SHORT = "no span is too long for its words", "no span is too short for its words"
TARGET = "as many words are chosen as the policy says"


DEFECTS: list[tuple[Callable[[Row], None], str, set[str]]] = [
    (reach_out, BOUNDS, {PLACE, REBUILT}),
    (reach_out_of_ids, BOUNDS, {COUNT, MARKERS, APART, REBUILT}),
    (swap_spans, ORDER, {REBUILT}),
    (overlap, ORDER, {PLACE, NAME, TARGET}),
    (touch, TOUCH, {PLACE, NAME, TARGET}),
    (shift_the_words, PLACE, {NAME}),
    (miscount_the_words, PLACE, set()),
    (lose_a_code, COUNT, set()),
    (lose_a_marker, MARKERS, {APART}),
    (add_a_marker, MARKERS, {REBUILT}),
    (leave_the_vocabulary, "ids are of the vocabulary", set()),
    (speak_outside, APART, {REBUILT}),
    (write_inside, APART, set()),
    (change_the_text, REBUILT, set()),
    (lose_text, REBUILT, set()),
    (shift_the_bytes, PLACE, {REBUILT}),
    (speak_too_much, LONG, set()),
    (truncate, SHORT, set()),
    (repeat, "no span repeats itself", set()),
    (rename_a_span, NAME, set()),
    (repeat_a_span, "no span is there twice", {ORDER, REBUILT, TARGET, MARKERS}),
    (copy_codes, "no span has the codes of other words", set()),
    (refuse_but_speak, "a refused span is all text and says why", {MARKERS, APART, REBUILT}),
    (refuse_without_reason, "a refused span is all text and says why", set()),
    (lose_a_span, TARGET, set()),
    (cut_every_span, "at most the last drawn span is cut", set()),
    (stay_text, "something is spoken", set()),
    (lose_the_licence, "source and licence are named", set()),
    (take_another_tokenizer, "codes are of the asked tokenizer", set()),
    (take_another_model, "codes are by the asked maker, policy and seed", set()),
    (take_another_policy, "codes are by the asked maker, policy and seed", set()),
]


@pytest.mark.parametrize(("damage", "claim", "also"), DEFECTS)
def test_each_way_of_breaking_a_row_is_seen_by_its_own_check(
    damage: Callable[[Row], None], claim: str, also: set[str]
) -> None:
    row = deepcopy(ROWS[1])
    damage(row)

    assert broken_checks(row) == {claim} | also


def test_each_check_of_rows_has_a_defect_of_its_own() -> None:
    assert {claim for _, claim, _ in DEFECTS} == {one.name for one in EVERY}


def test_good_rows_break_nothing() -> None:
    summary = CHECK.summarise(table_of(ROWS))

    verdicts = PlainGate().judge("s", EVERY, summary, [row["id"] for row in ROWS])

    assert [verdict.expectation for verdict in verdicts if not verdict.success] == []


def test_no_rows_break_nothing() -> None:
    verdicts = PlainGate().judge("s", EVERY, CHECK.summarise(table_of([])), [])

    assert all(verdict.success for verdict in verdicts)


def failed_sums(rows: Sequence[Row], ratio: float = 0.4, **changes: Any) -> list[str]:
    """The checks that the sums of a shard break."""
    fields: dict[str, Any] = {
        "natural": NATURAL,
        "ids_per_word": IDS_PER_WORD,
        "error_rates": [0.0],
    } | changes
    sums = shard_sums(table_of(rows), [ratio * row["num_words"] for row in rows], **fields)
    table = {name: [value] for name, value in sums.items()}
    table |= {"broken_rows": [0.0], "length_deviation": [0.0]}
    expected = shard_expectations(QualityLimits())
    verdicts = PlainGate().judge("s", expected, table, ["shard"])
    return [verdict.expectation for verdict in verdicts if not verdict.success]


def test_a_good_shard_breaks_nothing() -> None:
    assert failed_sums(ROWS) == []
    assert failed_sums([]) == []


def test_a_shard_whose_spans_were_refused_is_seen() -> None:
    rows = deepcopy(ROWS)
    for row in rows[::2]:
        stay_text(row)

    assert failed_sums(rows) == ["most spans could be spoken"]


def test_a_shard_that_chooses_otherwise_than_asked_is_seen() -> None:
    assert failed_sums(ROWS, 0.6) == ["the share of chosen words is the policy's"]
    assert failed_sums(ROWS, 0.2) == ["the share of chosen words is the policy's"]


def test_text_that_was_cut_into_bytes_is_seen_by_the_speech_share() -> None:
    rows = deepcopy(ROWS)
    for row in rows:
        spell(row)

    assert [CHECK.summarise(table_of(rows))["text_differs"]] == [[0.0] * len(rows)]
    assert failed_sums(rows) == [
        "the speech share of tokens is as natural speech and the text have it"
    ]


def spell(row: Row) -> None:
    """Write every written part letter by letter: the same text in more ids."""
    letters, at, moved = list[int](), 0, list[tuple[int, int]]()
    for span in row["spans"]:
        letters += spelled(row["ids"][at : span["id_start"]])
        moved.append((len(letters), len(letters) + span["id_stop"] - span["id_start"]))
        letters += row["ids"][span["id_start"] : span["id_stop"]]
        at = span["id_stop"]
    row["ids"] = letters + spelled(row["ids"][at:])
    for span, (start, stop) in zip(row["spans"], moved, strict=True):
        span |= {"id_start": start, "id_stop": stop}


def spelled(ids: Sequence[int]) -> list[int]:
    return [one for letter in TOKENIZER.decode(ids) for one in TOKENIZER.encode(letter)]


def test_speech_at_another_pace_is_seen() -> None:
    slow = Natural(NATURAL.codes_per_word * 2)

    assert "spans are spoken at the pace of real speech" in failed_sums(ROWS, natural=slow)
    assert failed_sums(ROWS, natural=Natural(0.0)) == []


def test_speech_that_is_read_back_as_something_else_is_seen() -> None:
    assert failed_sums(ROWS, error_rates=[0.1, 0.9, 0.8]) == [
        "spans are read back as what they say"
    ]


def test_spans_of_one_length_are_not_poisson() -> None:
    expected = np.array([0.0, 20, 40, 50, 40, 20, 5, 1])

    assert length_deviation(expected, expected) < 0
    assert length_deviation(np.array([0.0, 0, 0, 176, 0, 0, 0, 0]), expected) > 6
    assert length_deviation(expected[::-1], expected[::-1] * 0) == 0


def failed_whole(**sums: float) -> list[str]:
    table = {name: [value] for name, value in sums.items()}
    verdicts = PlainGate().judge("s", whole_expectations(QualityLimits()), table, ["all"])
    return [verdict.expectation for verdict in verdicts if not verdict.success]


def test_the_whole_must_hold_its_share_to_half_a_point_once_it_is_large() -> None:
    def shard(words: int, chosen: int) -> dict[str, float]:
        return {"words": words, "chosen_words": chosen, "expected_words": 0.3 * words}

    small = whole_sums([shard(10_000, 3_100)], num_rows=9, left_out=0, twice=0)
    large = whole_sums([shard(90_000, 27_600)] * 2, num_rows=9, left_out=0, twice=0)
    broken = whole_sums([], num_rows=0, left_out=3, twice=1)

    assert failed_whole(**small) == []
    assert failed_whole(**large) == ["the share of chosen words is exact over many words"]
    assert failed_whole(**broken) == [
        "no document is there twice",
        "little is left out",
        "something is left in",
    ]
