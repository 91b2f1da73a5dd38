"""Word error rates: counted by jiwer on normalised text, with the normaliser's version beside."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from interloom.evaluation.choice import ChosenSet, Item
from interloom.evaluation.intervals import Estimate
from interloom.evaluation.measures import Judging, Measure
from interloom.text.normalise import normalise


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Edits between one reference and one hypothesis, and the reference's words."""

    num_edits: int
    num_words: int


def word_errors(reference: str, hypothesis: str) -> WordErrors:
    """Count the words to insert, delete or replace, both texts normalised.

    Against an empty reference every word of the hypothesis is an insertion.
    """
    expected, got = normalise(reference), normalise(hypothesis)
    if not expected:
        return WordErrors(len(got.split()), 0)
    measured = jiwer.process_words(expected, got)
    edits = measured.substitutions + measured.deletions + measured.insertions
    return WordErrors(int(edits), measured.hits + measured.substitutions + measured.deletions)


def error_rate(references: Sequence[str], hypotheses: Sequence[str], judging: Judging) -> Estimate:
    """Edits over reference words, with a bootstrap interval over the items."""
    return _rate(_counted(references, hypotheses), judging)


def measure_errors(
    name: str,
    texts: tuple[Sequence[str], Sequence[str]],
    chosen: ChosenSet,
    rows: Sequence[Item],
    judging: Judging,
) -> Measure:
    """``error_rate`` of a set's rows; ``texts`` are what should and what could be read of them."""
    counted = _counted(*texts)
    scores = chosen.scores(rows, [one.num_edits for one in counted])
    return Measure(name, _rate(counted, judging), scores=scores)


def _counted(references: Sequence[str], hypotheses: Sequence[str]) -> list[WordErrors]:
    pairs = zip(references, hypotheses, strict=True)
    return [word_errors(reference, hypothesis) for reference, hypothesis in pairs]


def _rate(counted: Sequence[WordErrors], judging: Judging) -> Estimate:
    edits = [one.num_edits for one in counted]
    return judging.ratio(edits, [one.num_words for one in counted])


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether any answer, normalised, stands in the text as whole words (P1's spoken QA rule)."""
    padded = f" {normalise(text)} "
    wanted = [normalise(answer) for answer in answers]
    return any(f" {answer} " in padded for answer in wanted if answer)
