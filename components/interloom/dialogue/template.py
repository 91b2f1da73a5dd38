"""How a dialogue becomes joint ids, which of them are learnt, and how an answer is read back.

A user's turn is ``<|user|>`` and then wrapped speech, or text. An answer is ``<|assistant|>`` and

- ``<|streaming_transcription|>``: 13 text tokens, 26 speech tokens, again until the text is used
  up, then all remaining speech (text-guided; GLM-4-Voice);
- ``<|speech_to_speech|>``: wrapped speech, no text.

``<|user|>`` ends it, be it the next turn's or the last. Legend: T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from interloom.config.dialogue import AnswerConfig, StreamTemplate
from interloom.core.errors import DataError
from interloom.vocabulary.layout import Ids, Marker, VocabularyLayout


class Copy(StrEnum):
    """What is learnt of a dialogue: P1 and GLM-4-Voice train each part on a copy of its own.

    ``BOTH`` learns both parts of the same stream in one pass, which is a copy of each in one step
    at half the cost.
    """

    TEXT = "text"
    SPEECH = "speech"
    BOTH = "both"
    SPEECH_ONLY = "speech_only"


@dataclass(frozen=True, slots=True)
class Said:
    """One utterance as text ids and as speech codes; either may be empty."""

    text_ids: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer.

    Attributes:
        user: What the user said; given as speech, or as text if ``is_typed``.
        assistant: The answer.
        is_typed: Whether the user's turn is shown as text.
    """

    user: Said
    assistant: Said
    is_typed: bool = False


@dataclass(frozen=True, slots=True)
class ChatExample:
    """Joint ids of shape (T,), and for each whether predicting it is learnt."""

    ids: Ids
    is_learnt: NDArray[np.bool_]


def stream_ids(said: Said, template: StreamTemplate, layout: VocabularyLayout) -> Ids:
    """The text-guided stream of one answer.

    Where speech is used up before text, the text goes on alone.
    """
    text, speech = _array(said.text_ids), layout.speech_ids(_array(said.codes))
    parts: list[Ids] = []
    while text.size:
        parts += [text[: template.text_chunk], speech[: template.speech_chunk]]
        text, speech = text[template.text_chunk :], speech[template.speech_chunk :]
    return np.concatenate([*parts, speech])


def parse_stream(ids_T: NDArray[np.integer[Any]], layout: VocabularyLayout) -> Said:
    """Text ids and codes of an answer, text-guided or speech-only.

    Audio wrappers are passed over, and so is the ``<|user|>`` that ends it.

    Raises:
        DataError: Another marker stands in it.
    """
    is_text, is_speech = layout.is_text(ids_T), layout.is_speech(ids_T)
    wrappers = (Marker.AUDIO_BEGIN, Marker.AUDIO_END, Marker.USER)
    known = is_text | is_speech | np.isin(ids_T, [layout.marker(marker) for marker in wrappers])
    if not known.all():
        position = int(np.flatnonzero(~known)[0])
        raise DataError(
            f"token {position} of an answer is {int(ids_T[position])}, "
            "expected text, speech or an audio wrapper"
        )
    return Said(tuple(ids_T[is_text].tolist()), tuple(layout.codes(ids_T[is_speech]).tolist()))


def speech_outlasts_text(num_text: int, num_codes: int, template: StreamTemplate) -> bool:
    """Whether each full text chunk is followed by a full speech chunk or the last of the speech.

    Only such an answer keeps the template, by which speech never ends before text.
    """
    full_chunks_before_last = max(0, -(-num_text // template.text_chunk) - 1)
    return num_codes > full_chunks_before_last * template.speech_chunk


def prompt_ids(
    history: Sequence[Exchange], question: Said, config: AnswerConfig, layout: VocabularyLayout
) -> Ids:
    """Everything up to where the answer begins.

    Args:
        history: Exchanges so far, in order.
        question: Speech if it has codes, else text.
        config: Says the answer's mode and template.
        layout: The joint id space.
    """
    asked = Exchange(question, Said(), is_typed=not question.codes)
    pieces = [
        piece
        for exchange in history
        for piece in _exchange(
            exchange, config.template, layout, is_text_guided=config.is_text_guided
        )
    ]
    pieces += _exchange(asked, config.template, layout, is_text_guided=config.is_text_guided)[:-1]
    if not config.is_text_guided:
        pieces.append(_Piece(_markers(layout, Marker.AUDIO_BEGIN)))
    return np.concatenate([piece.ids for piece in pieces])


def chat_example(
    exchanges: Sequence[Exchange], copy: Copy, template: StreamTemplate, layout: VocabularyLayout
) -> ChatExample:
    """One copy of a dialogue with what is learnt of it.

    The text copy learns the text of the answers. The speech copy learns their speech and the
    ``<|user|>`` that ends them, and the speech-only copy the closing wrapper besides. A copy of
    both learns all of that.
    """
    is_text_guided = copy is not Copy.SPEECH_ONLY
    pieces = [
        piece
        for one in exchanges
        for piece in _exchange(one, template, layout, is_text_guided=is_text_guided)
    ]
    pieces.append(_Piece(_markers(layout, Marker.USER)))
    ids_T = np.concatenate([piece.ids for piece in pieces])
    answers_T = np.concatenate([np.full(len(piece.ids), piece.is_answer) for piece in pieces])
    ends_T = ids_T == layout.marker(Marker.USER)
    ends_T[0] = False  # the first user's turn ends no answer
    text_T = answers_T & layout.is_text(ids_T)
    closing_T = ids_T == layout.marker(Marker.AUDIO_END)
    speech_T = (answers_T & (layout.is_speech(ids_T) | closing_T)) | ends_T
    match copy:
        case Copy.TEXT:
            learnt_T = text_T
        case Copy.SPEECH | Copy.SPEECH_ONLY:
            learnt_T = speech_T
        case Copy.BOTH:
            learnt_T = text_T | speech_T
        case _:
            assert_never(copy)
    return ChatExample(ids_T, learnt_T)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of ids."""

    ids: Ids
    is_answer: bool = False


def _exchange(
    exchange: Exchange, template: StreamTemplate, layout: VocabularyLayout, *, is_text_guided: bool
) -> list[_Piece]:
    """User turn, mode, answer."""
    user, assistant = exchange.user, exchange.assistant
    asked = _array(user.text_ids) if exchange.is_typed else layout.wrap_audio(_array(user.codes))
    if is_text_guided:
        mode, answer = Marker.TEXT_GUIDED, stream_ids(assistant, template, layout)
    else:
        mode, answer = Marker.SPEECH_ONLY, layout.wrap_audio(_array(assistant.codes))
    return [
        _Piece(np.concatenate([_markers(layout, Marker.USER), asked])),
        _Piece(_markers(layout, Marker.ASSISTANT, mode)),
        _Piece(answer, is_answer=True),
    ]


def _markers(layout: VocabularyLayout, *markers: Marker) -> Ids:
    return np.array([layout.marker(marker) for marker in markers], np.int32)


def _array(values: Sequence[int]) -> Ids:
    return np.array(values, np.int32)
