"""The chatbot on the world's questions: is it right, and does it say what it writes?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from interloom.dialogue.chat import Answer, Question, Talk
from interloom.evaluation.choice import ChosenSet, Item
from interloom.evaluation.error_rate import holds_answer, measure_errors
from interloom.evaluation.measures import Findings, Judging, by_group, share_right
from interloom.evaluation.spoken import Codes, Listener


class Answerer(Protocol):
    """A chatbot."""

    def answer_each(
        self, histories: Sequence[Sequence[Talk]], questions: Sequence[Question], *, seed: int
    ) -> list[Answer]:
        """Answer each question."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions as they are put, each with its row."""

    rows: tuple[Item, ...]
    questions: tuple[Question, ...]


def spoken_questions(chosen: ChosenSet, spoken: Mapping[str, Codes]) -> Asked:
    """Those that could be spoken, as speech."""
    rows = tuple(row for row in chosen.items if row["question"] in spoken)
    return Asked(rows, tuple(Question(row["question"], spoken[row["question"]]) for row in rows))


def typed_questions(chosen: ChosenSet) -> Asked:
    """All of them, as text."""
    return Asked(chosen.items, tuple(Question(row["question"]) for row in chosen.items))


@dataclass(frozen=True, slots=True, eq=False)
class Interview:
    """Questions with the chatbot's answers.

    Attributes:
        asked: The questions.
        answers: One each.
        read: The answers' codes, read.
        heard: The answers' sound, tokenised again and read.
    """

    asked: Asked
    answers: tuple[Answer, ...]
    read: tuple[str, ...]
    heard: tuple[str, ...]

    @property
    def is_right(self) -> tuple[bool, ...]:
        """Which answers hold what was asked for, in their own text."""
        return tuple(_right(self.asked.rows, [answer.text for answer in self.answers]))


def interview(asked: Asked, chatbot: Answerer, listener: Listener, *, seed: int) -> Interview:
    """Put all questions, each without a history, and listen to the answers."""
    answers = tuple(chatbot.answer_each([()] * len(asked.rows), asked.questions, seed=seed))
    read = tuple(listener.read([answer.codes for answer in answers]))
    waveforms = [answer.waveform for answer in answers]
    heard = tuple(listener.read(listener.encode(waveforms)))
    return Interview(asked, answers, read, heard)


def measure_chat(chosen: ChosenSet, talked: Interview, judging: Judging) -> Findings:
    """``chat/...``: right answers as written and as spoken, and the error rate of the speech."""
    texts = [answer.text for answer in talked.answers]
    rows = talked.asked.rows
    complete = [answer.is_complete for answer in talked.answers]
    spoken_right = _right(rows, talked.read)
    right = measure_right("chat/right", chosen, talked, judging)
    measures = (
        share_right("chat/right_spoken", chosen, rows, spoken_right, judging),
        share_right("chat/complete", chosen, rows, complete, judging),
        measure_errors("chat/answer_wer", (texts, talked.read), chosen, rows, judging),
        measure_errors("chat/heard_answer_wer", (texts, talked.heard), chosen, rows, judging),
    )
    return Findings(right.measures + measures, (chosen,), right.details)


def measure_right(name: str, chosen: ChosenSet, talked: Interview, judging: Judging) -> Findings:
    """The share of right answers, over all questions and by group."""
    measures = by_group(name, chosen, talked.asked.rows, talked.is_right, judging)
    return Findings(tuple(measures), details={name: _table(talked, talked.is_right)})


def _right(rows: Sequence[Item], texts: Sequence[str]) -> list[bool]:
    return [holds_answer(text, row["answers"]) for row, text in zip(rows, texts, strict=True)]


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
            talked.asked.rows, talked.answers, talked.read, talked.heard, is_right, strict=True
        )
    ]
