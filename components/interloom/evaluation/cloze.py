"""Story cloze by likelihood: does the model find the right ending likelier than the wrong ones?

Context and endings are each speech or text (P1, section 5.2; scores: spec 8.8). Beside them stand
the endings alone: what a model gets right without the context is no proof that it read or heard
one. Legend: T tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from interloom.config.evaluation import ClozeScore
from interloom.core.modality import Modality
from interloom.vocabulary.layout import Ids, Marker, VocabularyLayout

SCORES: tuple[ClozeScore, ...] = ("sum", "mean_ending", "mean_all")


class ClozeMode(StrEnum):
    """Modality of the context, if there is one, and of the ending."""

    SPEECH_TO_SPEECH = "S->S"
    SPEECH_TO_TEXT = "S->T"
    TEXT_TO_SPEECH = "T->S"
    TEXT_TO_TEXT = "T->T"
    SPEECH_ALONE = "->S"
    TEXT_ALONE = "->T"

    @property
    def ending(self) -> Modality:
        """What is scored."""
        return Modality.SPEECH if self.value[-1] == "S" else Modality.TEXT


@dataclass(frozen=True, slots=True)
class Passage:
    """A context or an ending, both as text ids and as codes."""

    text_ids: tuple[int, ...]
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClozeItem:
    """One context with its endings, of which one is right."""

    context: Passage
    right: Passage
    wrong: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class EndingScores:
    """How likely one ending is, by each of the three scores."""

    sum: float
    mean_ending: float
    mean_all: float


class TokenScorer(Protocol):
    """Whoever gives the log-probability of each token after those before it."""

    def log_likelihoods(self, rows: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """For each row of T ids, T - 1 log-probabilities: those of its ids 1 to T - 1."""
        ...


def prompt(context: Passage, mode: ClozeMode, layout: VocabularyLayout) -> Ids:
    """The ids before an ending. Speech that goes on as speech is one recording, not two."""
    begin = np.array([layout.marker(Marker.AUDIO_BEGIN)], np.int32)
    text = np.array(context.text_ids, np.int32)
    speech = layout.speech_ids(np.array(context.codes, np.int32))
    match mode:
        case ClozeMode.SPEECH_TO_SPEECH:
            return np.concatenate([begin, speech])
        case ClozeMode.SPEECH_TO_TEXT:
            return layout.wrap_audio(np.array(context.codes, np.int32))
        case ClozeMode.TEXT_TO_SPEECH:
            return np.concatenate([text, begin])
        case ClozeMode.TEXT_TO_TEXT:
            return text
        case ClozeMode.SPEECH_ALONE:
            return begin
        case ClozeMode.TEXT_ALONE:
            return np.array([layout.marker(Marker.DOCUMENT_END)], np.int32)


def ending_ids(ending: Passage, mode: ClozeMode, layout: VocabularyLayout) -> Ids:
    """The ids that are scored: the ending's own, without wrappers."""
    if mode.ending is Modality.SPEECH:
        return layout.speech_ids(np.array(ending.codes, np.int32))
    return np.array(ending.text_ids, np.int32)


def score_ending(log_likelihoods: NDArray[np.float32], num_ending: int) -> EndingScores:
    """The three scores.

    Args:
        log_likelihoods: Of all ids of prompt and ending but the first, shape (T - 1,).
        num_ending: How many of the last belong to the ending.
    """
    ending = log_likelihoods[-num_ending:].astype(np.float64)
    return EndingScores(
        sum=float(ending.sum()),
        mean_ending=float(ending.mean()),
        mean_all=float(log_likelihoods.astype(np.float64).mean()),
    )


def choices(
    items: Sequence[ClozeItem], mode: ClozeMode, scorer: TokenScorer, layout: VocabularyLayout
) -> Mapping[ClozeScore, tuple[bool, ...]]:
    """For each score, which items the model gets right; equal scores count as wrong."""
    prompts = [prompt(item.context, mode, layout) for item in items]
    endings = [
        [ending_ids(one, mode, layout) for one in (item.right, *item.wrong)] for item in items
    ]
    rows = [
        np.concatenate([before, ending])
        for before, held in zip(prompts, endings, strict=True)
        for ending in held
    ]
    found = iter(scorer.log_likelihoods(rows))
    scores = [[score_ending(next(found), len(ending)) for ending in held] for held in endings]
    return {
        "sum": tuple(_is_first(one.sum for one in held) for held in scores),
        "mean_ending": tuple(_is_first(one.mean_ending for one in held) for held in scores),
        "mean_all": tuple(_is_first(one.mean_all for one in held) for held in scores),
    }


def _is_first(values: Iterable[float]) -> bool:
    """Whether the first is above all others."""
    first, *others = values
    return first > max(others)
