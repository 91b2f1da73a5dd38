"""Spoken dialogues as packed training rows: every copy, so many times as it is asked for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interloom.config.dialogue import SftConfig
from interloom.core.errors import DataError
from interloom.dialogue.template import Copy, Exchange, Said, chat_example
from interloom.mixture.examples import Example
from interloom.mixture.rows import MemoryRows
from interloom.mixture.sources import transcribe_examples, transcription
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import Marker, VocabularyLayout

Dialogue = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatRows:
    """What a chatbot is trained on.

    Attributes:
        rows: Packed rows; their sources are the copies.
        num_examples: Examples in them.
        num_too_long: Examples left out since they are longer than a row.
    """

    rows: MemoryRows
    num_examples: int
    num_too_long: int


def chat_rows(
    dialogues: Iterable[Dialogue],
    config: SftConfig,
    *,
    text: TextTokenizer,
    layout: VocabularyLayout,
    seed: int,
    utterances: Iterable[Mapping[str, Any]] = (),
) -> ChatRows:
    """All copies of all dialogues and utterances, packed whole.

    Raises:
        DataError: No example fits into a row.
    """
    examples = list(chat_examples(dialogues, config, text=text, layout=layout, seed=seed))
    written = [("utterances", one) for one in transcribe_examples(utterances, layout, text)]
    examples += written * config.copies.utterances
    fitting = [one for one in examples if len(one[1].ids_T) <= config.row_length]
    if not fitting:
        raise DataError(
            f"none of {len(examples)} dialogue examples fits into {config.row_length} tokens; "
            "raise sft.row_length"
        )
    rows = MemoryRows(fitting, row_length=config.row_length, pad=layout.marker(Marker.PAD))
    return ChatRows(rows, len(fitting), len(examples) - len(fitting))


def chat_examples(
    dialogues: Iterable[Dialogue],
    config: SftConfig,
    *,
    text: TextTokenizer,
    layout: VocabularyLayout,
    seed: int,
) -> Iterator[tuple[str, Example]]:
    """Each copy with its name; whether the user types is drawn from the seed and the place.

    Transcriptions are of the users' turns alone: what the chatbot hears.
    """
    counts = {
        Copy.TEXT: config.copies.text,
        Copy.SPEECH: config.copies.speech,
        Copy.BOTH: config.copies.both,
        Copy.SPEECH_ONLY: config.copies.speech_only,
    }
    for place, row in enumerate(dialogues):
        rng = np.random.Generator(np.random.Philox(key=[seed, place]))
        said = [_said(turn, text) for turn in row["turns"]]
        for copy, count in counts.items():
            for index in range(count):
                is_typed = bool(rng.random() < config.copies.typed_user_share)
                made = chat_example(
                    _exchanges(said, is_typed=is_typed), copy, config.template, layout
                )
                name = f"{row['id']}/{copy}/{index}"
                yield copy.value, Example(name, made.ids, made.is_learnt, row["licence"])
        for index in range(config.copies.transcribe):
            for turn, one in enumerate(said[::2]):
                audio = layout.wrap_audio(np.array(one.codes, np.int32))
                name = f"{row['id']}/transcribe/{turn}/{index}"
                yield (
                    "transcribe",
                    transcription(name, audio, one.text_ids, layout, licence=row["licence"]),
                )


def _said(turn: dict[str, Any], text: TextTokenizer) -> Said:
    """A turn as ids."""
    return Said(tuple(text.encode(turn["text"])), tuple(turn["codes"]))


def _exchanges(said: Sequence[Said], *, is_typed: bool) -> list[Exchange]:
    """Turns in pairs."""
    return [
        Exchange(user, assistant, is_typed)
        for user, assistant in zip(said[::2], said[1::2], strict=True)
    ]
