"""Word error rates: counted by jiwer on normalised text, with the normaliser's version beside."""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from interloom.config.evaluation import EvaluationConfig
from interloom.evaluation.intervals import Estimate, bootstrap_ratio
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


def error_rate(
    references: Sequence[str], hypotheses: Sequence[str], config: EvaluationConfig, *, seed: int
) -> Estimate:
    """Edits over reference words of a set, with a bootstrap interval over its items."""
    counted = [
        word_errors(reference, hypothesis)
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    return bootstrap_ratio(
        [one.num_edits for one in counted],
        [one.num_words for one in counted],
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        seed=seed,
    )


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether any answer, normalised, stands in the text as whole words (P1's spoken QA rule)."""
    padded = f" {normalise(text)} "
    wanted = [normalise(answer) for answer in answers]
    return any(f" {answer} " in padded for answer in wanted if answer)
