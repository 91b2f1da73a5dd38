"""The chatbot on the world's questions: is it right, and does it say what it writes?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from interloom.dialogue.chat import Answer, Question, Talk
from interloom.evaluation.choice import ChosenSet, Item
from interloom.evaluation.error_rate import error_rate, holds_answer
from interloom.evaluation.intervals import Estimate, wilson
from interloom.evaluation.measures import Findings, Judging, Measure
from interloom.evaluation.spoken import Codes, Listener


class Answerer(Protocol):
    """A chatbot."""

    def answer_each(
        self, histories: Sequence[Sequence[Talk]], questions: Sequence[Question], *, seed: int
    ) -> list[Answer]:
        """Answer each question."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Interview:
    """Questions with the chatbot's answers.

    Attributes:
        rows: The questions that could be spoken.
        questions: As they were put.
        answers: One each.
        read: The answers' codes, read.
        heard: The answers' sound, tokenised again and read.
    """

    rows: tuple[Item, ...]
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    read: tuple[str, ...]
    heard: tuple[str, ...]

    @property
    def is_right(self) -> tuple[bool, ...]:
        """Which answers hold what was asked for, in their own text."""
        return tuple(_right(self.rows, [answer.text for answer in self.answers]))


def interview(
    chosen: ChosenSet,
    chatbot: Answerer,
    listener: Listener,
    spoken: Mapping[str, Codes],
    *,
    seed: int,
) -> Interview:
    """Put each question as speech."""
    rows = tuple(row for row in chosen.items if row["question"] in spoken)
    questions = tuple(Question(row["question"], spoken[row["question"]]) for row in rows)
    answers = tuple(chatbot.answer_each([()] * len(rows), questions, seed=seed))
    read = tuple(listener.read([answer.codes for answer in answers]))
    waveforms = [answer.waveform for answer in answers]
    heard = tuple(listener.read(listener.encode(waveforms)))
    return Interview(rows, questions, answers, read, heard)


def measure_chat(name: str, chosen: ChosenSet, talked: Interview, judging: Judging) -> Findings:
    """Right answers as written and as spoken, by group; and the error rate of the speech.

    Args:
        name: Prefix of the metrics.
        chosen: The questions, for their fingerprint.
        talked: What was answered.
        judging: How numbers become estimates.
    """
    texts = [answer.text for answer in talked.answers]
    config, seed = judging.config, judging.seed
    is_right = talked.is_right
    groups = sorted({row["group"] for row in talked.rows})
    measures = [
        Measure(f"{name}/right", _share(is_right, judging)),
        Measure(f"{name}/right_spoken", _share(_right(talked.rows, talked.read), judging)),
        Measure(f"{name}/complete", _share([one.is_complete for one in talked.answers], judging)),
        Measure(f"{name}/answer_wer", error_rate(texts, talked.read, config, seed=seed)),
        Measure(f"{name}/heard_answer_wer", error_rate(texts, talked.heard, config, seed=seed)),
    ]
    for group in groups:
        in_group = [
            right for row, right in zip(talked.rows, is_right, strict=True) if row["group"] == group
        ]
        measures.append(Measure(f"{name}/right/{group}", _share(in_group, judging)))
    return Findings(tuple(measures), (chosen,), {name: _table(talked, is_right)})


def _right(rows: Sequence[Item], texts: Sequence[str]) -> list[bool]:
    return [holds_answer(text, row["answers"]) for row, text in zip(rows, texts, strict=True)]


def _share(claims: Sequence[bool], judging: Judging) -> Estimate:
    return wilson(sum(claims), len(claims), judging.config.confidence)


def _table(talked: Interview, is_right: Sequence[bool]) -> list[dict[str, Any]]:
    """Every question with its answer, for ``report.json``."""
    return [
        {
            "id": row["id"],
            "group": row["group"],
            "question": row["question"],
            "expected": row["answers"],
            "answer": answer.text,
            "read": read,
            "heard": heard,
            "is_right": right,
        }
        for row, answer, read, heard, right in zip(
            talked.rows, talked.answers, talked.read, talked.heard, is_right, strict=True
        )
    ]
