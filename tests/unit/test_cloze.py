from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from interloom.config.evaluation import EvaluationConfig
from interloom.evaluation.choice import ChosenSet, ItemScores, choose
from interloom.evaluation.cloze import (
    ClozeItem,
    ClozeMode,
    Passage,
    choices,
    ending_ids,
    prompt,
    score_ending,
)
from interloom.evaluation.cloze_tasks import Reader, measure_cloze
from interloom.evaluation.measures import Judging
from interloom.evaluation.pairing import Paired, paired
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import Ids, Marker, VocabularyLayout

LAYOUT = VocabularyLayout(10, 10, text_tokenizer="t", tokenizer="s")
SPEECH = LAYOUT.speech_offset
BEGIN, END = LAYOUT.marker(Marker.AUDIO_BEGIN), LAYOUT.marker(Marker.AUDIO_END)
DOCUMENT_END = LAYOUT.marker(Marker.DOCUMENT_END)


class FavouriteToken:
    """Says -1 for its favourite ids and -2 for all others."""

    def __init__(self, favourites: Sequence[int]) -> None:
        self.favourites = favourites
        self.rows: list[Ids] = []

    def log_likelihoods(self, rows: Sequence[Ids]) -> list[NDArray[np.float32]]:
        self.rows += rows
        return [
            np.where(np.isin(row[1:], self.favourites), -1.0, -2.0).astype(np.float32)
            for row in rows
        ]


ITEM = ClozeItem(
    context=Passage((1, 2), ((3,),)),
    right=Passage((4, 4, 4), ((5, 5),)),
    wrong=(Passage((6,), ((7,),)),),
)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (ClozeMode.SPEECH_TO_SPEECH, [BEGIN, SPEECH + 3, SPEECH + 5, SPEECH + 5]),
        (ClozeMode.SPEECH_TO_TEXT, [BEGIN, SPEECH + 3, END, 4, 4, 4]),
        (ClozeMode.TEXT_TO_SPEECH, [1, 2, BEGIN, SPEECH + 5, SPEECH + 5]),
        (ClozeMode.TEXT_TO_TEXT, [1, 2, 4, 4, 4]),
        (ClozeMode.SPEECH_ALONE, [BEGIN, SPEECH + 5, SPEECH + 5]),
        (ClozeMode.TEXT_ALONE, [DOCUMENT_END, 4, 4, 4]),
    ],
)
def test_context_and_ending_stand_in_the_modality_of_the_mode(
    mode: ClozeMode, expected: list[int]
) -> None:
    ids = [
        *prompt(ITEM.context, mode, LAYOUT, take=0),
        *ending_ids(ITEM.right, mode, LAYOUT, take=0),
    ]

    assert ids == expected


def test_the_three_scores_of_an_ending() -> None:
    scores = score_ending(np.array([-1, -2, -3, -5], np.float32), 2)

    assert (scores.sum, scores.mean_ending, scores.mean_all) == (-8.0, -4.0, -2.75)


def test_a_long_right_ending_wins_by_its_mean_and_loses_by_its_sum() -> None:
    scorer = FavouriteToken([4])

    chosen = choices([ITEM], ClozeMode.TEXT_TO_TEXT, scorer, LAYOUT)

    # right: 3 * -1; wrong: -2; the context adds -2 to both
    assert chosen == {"sum": (False,), "mean_ending": (True,), "mean_all": (True,)}


def test_endings_that_are_equally_likely_do_not_count_as_right() -> None:
    same = ClozeItem(ITEM.context, ITEM.right, (ITEM.right,))

    chosen = choices([same], ClozeMode.SPEECH_TO_SPEECH, FavouriteToken([]), LAYOUT)

    assert not any(one for answers in chosen.values() for one in answers)


def test_the_right_one_of_four_endings_is_likelier_than_all_others() -> None:
    scorer = FavouriteToken([4])
    others = tuple(Passage((one,), ((one + 1,),)) for one in (6, 7, 8))
    hard = ClozeItem(ITEM.context, ITEM.right, (*others[:2], Passage((4, 4, 4), ((1,),))))

    chosen = choices(
        [ClozeItem(ITEM.context, ITEM.right, others), hard],
        ClozeMode.TEXT_TO_TEXT,
        scorer,
        LAYOUT,
    )

    assert chosen["mean_ending"] == (True, False)


def test_each_item_is_judged_on_its_own() -> None:
    swapped = ClozeItem(ITEM.context, ITEM.wrong[0], (ITEM.right,))

    chosen = choices(
        [ITEM, swapped, ITEM], ClozeMode.SPEECH_TO_SPEECH, FavouriteToken([SPEECH + 5]), LAYOUT
    )

    assert chosen["mean_ending"] == (True, False, True)


def test_a_spoken_ending_is_as_likely_as_its_takes_are_on_average() -> None:
    scorer = FavouriteToken([SPEECH + 5])
    # the right ending's takes: -1 and -2; the wrong one's: -2 and -2
    item = ClozeItem(
        context=Passage((1,), ((3,), (4,))),
        right=Passage((2,), ((5, 5), (6, 6))),
        wrong=(Passage((2, 2), ((7,), (8,))),),
    )
    swapped = ClozeItem(item.context, item.wrong[0], (item.right,))

    chosen = choices([item, swapped], ClozeMode.SPEECH_TO_SPEECH, scorer, LAYOUT)

    assert chosen["mean_ending"] == (True, False)
    # by sum: -3 against -2
    assert chosen["sum"] == (False, True)
    # context and endings in the same voice: no row mixes the two
    assert [row[1:].tolist() for row in scorer.rows[:4]] == [
        [SPEECH + 3, SPEECH + 5, SPEECH + 5],
        [SPEECH + 4, SPEECH + 6, SPEECH + 6],
        [SPEECH + 3, SPEECH + 7],
        [SPEECH + 4, SPEECH + 8],
    ]


def test_text_is_read_once_however_many_voices_there_are() -> None:
    scorer = FavouriteToken([4])
    item = ClozeItem(
        Passage((1,), ((3,), (3,))), Passage((4,), ((5,), (5,))), (Passage((6,), ((7,), (7,))),)
    )

    choices([item], ClozeMode.TEXT_TO_TEXT, scorer, LAYOUT)
    assert len(scorer.rows) == 2

    choices([item], ClozeMode.SPEECH_TO_TEXT, scorer, LAYOUT)
    assert len(scorer.rows) == 2 + 4


def test_a_large_set_is_cut_the_same_way_each_time_and_keeps_its_order() -> None:
    items = [{"id": f"{index:03d}"} for index in range(300)]

    first, again = choose("cloze", items, 40, seed=5), choose("cloze", items, 40, seed=5)
    ids = [item["id"] for item in first.items]

    assert first == again
    assert ids == sorted(ids)
    assert len(set(ids)) == 40
    assert first.digest != choose("cloze", items, 40, seed=6).digest
    assert first.digest != choose("questions", items, 40, seed=5).digest
    assert first.to_dict()["available"] == 300


def test_a_small_set_is_taken_whole() -> None:
    assert len(choose("cloze", [{"id": "a"}, {"id": "b"}], 40, seed=5).items) == 2


def test_an_item_counts_in_the_voices_that_can_say_all_of_it() -> None:
    text = TextTokenizer.train(["a b c d e f"], vocab_size=270)
    layout = VocabularyLayout(text.vocab_size, 10, text_tokenizer="t", tokenizer="s")
    scorer = FavouriteToken([layout.speech_offset + 2])
    rows = tuple(
        {"id": right, "context": "a", "right": right, "wrong": "d"} for right in ("b", "c", "e")
    )
    codes = {"a": 1, "b": 2, "c": 2, "d": 3}
    fluent = {one: np.array([code], np.int32) for one, code in codes.items()}
    halting = {one: said for one, said in fluent.items() if one != "c"}
    group = ChosenSet("cloze/story", rows, len(rows))

    findings = measure_cloze(
        group,
        Reader(scorer, layout, text, (fluent, halting)),
        Judging(EvaluationConfig(num_resamples=20), seed=0),
    )

    [spoken] = [one for one in findings.measures if one.name == "cloze/S->S/story"]
    assert spoken.scores is not None
    # nobody can say e
    assert spoken.scores.by_id == {"b": 1.0, "c": 1.0}
    # b in two voices, c in one, both endings of each
    assert (
        sum(len(row) == 3 and row[0] == layout.marker(Marker.AUDIO_BEGIN) for row in scorer.rows)
        == 6
    )


def test_what_was_said_in_more_voices_is_not_paired_with_what_was_said_in_fewer() -> None:
    text = TextTokenizer.train(["a b"], vocab_size=270)
    layout = VocabularyLayout(text.vocab_size, 10, text_tokenizer="t", tokenizer="s")
    scorer = FavouriteToken([layout.speech_offset + 2])
    group = ChosenSet("cloze/story", ({"id": "1", "context": "a", "right": "b", "wrong": "a"},), 1)
    voice = {"a": np.array([1], np.int32), "b": np.array([2], np.int32)}

    def scores(num_voices: int) -> dict[str, ItemScores]:
        reader = Reader(scorer, layout, text, (voice,) * num_voices)
        judging = Judging(EvaluationConfig(num_resamples=20), seed=0)
        found = measure_cloze(group, reader, judging).measures
        return {one.name: one.scores for one in found if one.scores is not None}

    once, twice, again = scores(1), scores(2), scores(1)

    assert paired(once["cloze/S->S/story"], twice["cloze/S->S/story"]) is None
    assert paired(once["cloze/S->S/story"], again["cloze/S->S/story"]) == Paired(1, 0, 0)
    assert paired(once["cloze/T->T/story"], twice["cloze/T->T/story"]) == Paired(1, 0, 0)
