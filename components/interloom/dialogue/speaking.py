"""From dialogues in text to dialogues in text and codes, dropping what cannot be spoken."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from interloom.config.dialogue import DialogueConfig
from interloom.corpora.tables import batched
from interloom.dialogue.template import speech_outlasts_text
from interloom.text_to_token.spans import SpanRequest, SpanResult

Dialogue = dict[str, Any]


class Voice(Protocol):
    """Whoever speaks spans of text."""

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who speaks which role, and how many text ids a text has."""

    user: Voice
    assistant: Voice
    num_text_ids: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Spoken:
    """What became of one dialogue: a row with codes, or the reason why there is none."""

    row: Dialogue
    dropped: str = ""


def speak_dialogues(
    rows: Iterable[Dialogue], speakers: Speakers, config: DialogueConfig
) -> Iterator[Spoken]:
    """Speak every turn; the outcome of a dialogue depends on its own id and text alone."""
    for batch in batched(rows, config.batch_size):
        shapes = [shape_problem(row) for row in batch]
        said = _speak_turns(
            [row for row, problem in zip(batch, shapes, strict=True) if not problem],
            speakers,
            config,
        )
        for row, problem in zip(batch, shapes, strict=True):
            yield Spoken(row, problem) if problem else _judged(row, said, speakers, config)


def shape_problem(row: Dialogue) -> str:
    """Why a dialogue cannot be used at all; empty if it can."""
    roles = [turn["role"] for turn in row["turns"]]
    if not roles or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        return "roles do not alternate"
    return "" if all(turn["text"].strip() for turn in row["turns"]) else "empty turn"


def _speak_turns(
    rows: Sequence[Dialogue], speakers: Speakers, config: DialogueConfig
) -> dict[str, SpanResult]:
    """The outcome of each turn, by the id of its span; equal spans are spoken once."""
    results: dict[str, SpanResult] = {}
    for role, voice in (("user", speakers.user), ("assistant", speakers.assistant)):
        texts = {
            _span_id(row, index, config): turn["text"]
            for row in rows
            for index, turn in enumerate(row["turns"])
            if turn["role"] == role
        }
        spans = [SpanRequest(span_id, text) for span_id, text in texts.items()]
        results |= {result.span_id: result for result in voice.synthesise(spans)}
    return results


def _judged(
    row: Dialogue, said: dict[str, SpanResult], speakers: Speakers, config: DialogueConfig
) -> Spoken:
    """The row with its codes, if every turn came out well."""
    turns = []
    for index, turn in enumerate(row["turns"]):
        result = said[_span_id(row, index, config)]
        problem = _turn_problem(turn, result, speakers, config)
        if problem:
            return Spoken(row, problem)
        turns.append({**turn, "codes": result.codes.tolist()})
    return Spoken({**row, "turns": turns})


def _turn_problem(
    turn: dict[str, str], result: SpanResult, speakers: Speakers, config: DialogueConfig
) -> str:
    """Why a spoken turn cannot be used; empty if it can."""
    if not result.accepted:
        return f"{turn['role']}: {result.reason}"
    if len(result.codes) > config.max_turn_codes:
        return f"{turn['role']}: too many codes"
    if turn["role"] == "assistant" and not speech_outlasts_text(
        speakers.num_text_ids(turn["text"]), len(result.codes), config.template
    ):
        return "speech ends before text"
    return ""


def _span_id(row: Dialogue, index: int, config: DialogueConfig) -> str:
    """Equal answers are one span; equal questions are as many as they may sound different."""
    turn = row["turns"][index]
    if turn["role"] == "assistant":
        return f"answer/{turn['text']}"
    digest = hashlib.sha256(f"{row['id']}#{index}".encode()).digest()
    return f"question/{digest[0] % config.user_takes}/{turn['text']}"
