"""Story cloze by likelihood: does the model find the right ending likelier than the wrong ones?

Context and endings are each speech or text (P1, section 5.2; scores: spec 8.8). What is spoken is
spoken in several voices, and scores are means over them. Beside them stand the endings alone: what
a model gets right without the context is no proof that it read or heard one. Legend: T tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
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

    @property
    def has_speech(self) -> bool:
        """Whether anything is spoken."""
        return "S" in self.value


@dataclass(frozen=True, slots=True)
class Passage:
    """A context or an ending as text ids, and as the codes of each voice."""

    text_ids: tuple[int, ...]
    takes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ClozeItem:
    """One context with its endings, of which one is right; all of them in the same voices."""

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


def prompt(context: Passage, mode: ClozeMode, layout: VocabularyLayout, *, take: int) -> Ids:
    """The ids before an ending. Speech that goes on as speech is one recording, not two."""
    begin = np.array([layout.marker(Marker.AUDIO_BEGIN)], np.int32)
    text = np.array(context.text_ids, np.int32)
    codes = np.array(context.takes[take], np.int32)
    speech = layout.speech_ids(codes)
    match mode:
        case ClozeMode.SPEECH_TO_SPEECH:
            return np.concatenate([begin, speech])
        case ClozeMode.SPEECH_TO_TEXT:
            return layout.wrap_audio(codes)
        case ClozeMode.TEXT_TO_SPEECH:
            return np.concatenate([text, begin])
        case ClozeMode.TEXT_TO_TEXT:
            return text
        case ClozeMode.SPEECH_ALONE:
            return begin
        case ClozeMode.TEXT_ALONE:
            return np.array([layout.marker(Marker.DOCUMENT_END)], np.int32)


def ending_ids(ending: Passage, mode: ClozeMode, layout: VocabularyLayout, *, take: int) -> Ids:
    """The ids that are scored: the ending's own, without wrappers."""
    if mode.ending is Modality.SPEECH:
        return layout.speech_ids(np.array(ending.takes[take], np.int32))
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
    said = [list(_continuations(item, mode, layout)) for item in items]
    rows = [np.concatenate(one) for of_item in said for takes in of_item for one in takes]
    found = iter(scorer.log_likelihoods(rows))

    def score(takes: Sequence[tuple[Ids, Ids]]) -> EndingScores:
        return _mean([score_ending(next(found), len(ending)) for _, ending in takes])

    scores = [[score(takes) for takes in of_item] for of_item in said]
    return {
        "sum": tuple(_is_first(one.sum for one in held) for held in scores),
        "mean_ending": tuple(_is_first(one.mean_ending for one in held) for held in scores),
        "mean_all": tuple(_is_first(one.mean_all for one in held) for held in scores),
    }


def _continuations(
    item: ClozeItem, mode: ClozeMode, layout: VocabularyLayout
) -> Iterator[list[tuple[Ids, Ids]]]:
    """For each ending, the right one first: prompt and ending in every voice; as text, once."""
    takes = range(len(item.context.takes) if mode.has_speech else 1)
    for one in (item.right, *item.wrong):
        yield [
            (
                prompt(item.context, mode, layout, take=take),
                ending_ids(one, mode, layout, take=take),
            )
            for take in takes
        ]


def _mean(scores: Sequence[EndingScores]) -> EndingScores:
    """Over the takes of one ending."""
    return EndingScores(
        sum=fmean(one.sum for one in scores),
        mean_ending=fmean(one.mean_ending for one in scores),
        mean_all=fmean(one.mean_all for one in scores),
    )


def _is_first(values: Iterable[float]) -> bool:
    """Whether the first is above all others."""
    first, *others = values
    return first > max(others)
