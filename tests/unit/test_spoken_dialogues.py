from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from interloom.config.dialogue import CopyConfig, DialogueConfig, SftConfig, StreamTemplate
from interloom.core.errors import DataError
from interloom.dialogue.examples import chat_examples, chat_rows
from interloom.dialogue.speaking import Speakers, speak_dialogues
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.spans import SpanRequest, SpanResult
from interloom.vocabulary.layout import Marker, VocabularyLayout

TEXT = TextTokenizer.train(["what is it", "it is a dog"], vocab_size=260)
LAYOUT = VocabularyLayout(TEXT.vocab_size, 40, text_tokenizer="t", tokenizer="s")
CONFIG = SftConfig(copies=CopyConfig(text=1, speech=3, speech_only=2, typed_user_share=0.5))


class Spelling:
    """Speaks a text as three codes a letter; stumbles over the letter q."""

    def __init__(self, codes_per_letter: int = 3) -> None:
        self.codes_per_letter = codes_per_letter

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        return [self._spell(span) for span in spans]

    def _spell(self, span: SpanRequest) -> SpanResult:
        if "q" in span.text:
            return SpanResult(span.span_id, np.zeros(0, np.int32), "misread", 3)
        letters = [ord(letter) % 40 for letter in span.text]
        codes = np.repeat(np.array(letters, np.int32), self.codes_per_letter)
        return SpanResult(span.span_id, codes, "", 1)


def _dialogue(row_id: str, *texts: str, first: str = "user") -> dict[str, Any]:
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    turns = [{"role": roles[i % 2], "text": text} for i, text in enumerate(texts)]
    return {"id": row_id, "split": "train", "turns": turns, "source": "x", "licence": "CC0-1.0"}


def _speakers(codes_per_letter: int = 3) -> Speakers:
    return Speakers(Spelling(), Spelling(codes_per_letter), lambda text: len(TEXT.encode(text)))


def test_every_turn_of_a_dialogue_is_spoken() -> None:
    rows = [_dialogue("a", "what is it", "a dog", "is it", "it is")]

    (spoken,) = speak_dialogues(rows, _speakers(), DialogueConfig())

    assert spoken.dropped == ""
    assert [turn["text"] for turn in spoken.row["turns"]] == [
        "what is it",
        "a dog",
        "is it",
        "it is",
    ]
    assert [len(turn["codes"]) for turn in spoken.row["turns"]] == [30, 15, 15, 15]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_dialogue("a", "quit", "a dog"), "user: misread"),
        (_dialogue("a", "what", "quit"), "assistant: misread"),
        (_dialogue("a", "what"), "roles do not alternate"),
        (_dialogue("a", "what", "it is", first="assistant"), "roles do not alternate"),
        (_dialogue("a"), "roles do not alternate"),
        (_dialogue("a", "what", "  "), "empty turn"),
        (_dialogue("a", "what" * 40, "it"), "user: too many codes"),
    ],
)
def test_a_dialogue_that_cannot_be_used_is_dropped_for_a_reason(
    row: dict[str, Any], reason: str
) -> None:
    config = DialogueConfig(max_turn_codes=100)

    (spoken,) = speak_dialogues([row], _speakers(), config)

    assert spoken.dropped == reason


def test_an_answer_that_is_spoken_before_it_is_written_is_dropped() -> None:
    config = DialogueConfig(template=StreamTemplate(text_chunk=2, speech_chunk=4))
    row = _dialogue("a", "what", "zzzzzzzz")  # 8 text tokens ask for more than 12 codes

    (slow,) = speak_dialogues([row], _speakers(2), config)
    (quick,) = speak_dialogues([row], _speakers(1), config)

    assert slow.dropped == ""
    assert quick.dropped == "speech ends before text"


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_outcome_does_not_depend_on_the_batch(batch_size: int) -> None:
    rows = [_dialogue(str(i), "quit" if i % 3 == 0 else "what", "a dog") for i in range(7)]

    spoken = list(speak_dialogues(rows, _speakers(), DialogueConfig(batch_size=batch_size)))

    assert [one.dropped for one in spoken] == [
        "user: misread" if i % 3 == 0 else "" for i in range(7)
    ]
    assert [one.row["id"] for one in spoken] == [str(i) for i in range(7)]


def _spoken_rows(count: int) -> list[dict[str, Any]]:
    rows = [_dialogue(str(i), f"what is it {i}", "it is a dog") for i in range(count)]
    return [one.row for one in speak_dialogues(rows, _speakers(), DialogueConfig())]


def test_each_copy_is_made_as_often_as_asked() -> None:
    examples = list(chat_examples(_spoken_rows(4), CONFIG, text=TEXT, layout=LAYOUT, seed=1))

    sources = [source for source, _ in examples]
    assert {name: sources.count(name) for name in sources} == {
        "text": 4,
        "speech": 12,
        "speech_only": 8,
    }
    assert len({example.id for _, example in examples}) == 24


def test_spoken_questions_are_transcribed_as_often_as_asked() -> None:
    copies = CopyConfig(text=0, speech=0, speech_only=0, transcribe=2)
    (row,) = _spoken_rows(1)

    (source, first), (_, second) = chat_examples(
        [row], CONFIG.model_copy(update={"copies": copies}), text=TEXT, layout=LAYOUT, seed=1
    )

    text_ids = TEXT.encode("what is it 0")
    codes = np.array(row["turns"][0]["codes"])
    end = LAYOUT.marker(Marker.DOCUMENT_END)
    assert (source, first.id, second.id) == ("transcribe", "0/transcribe/0/0", "0/transcribe/0/1")
    assert first.ids_T.tolist() == [
        LAYOUT.marker(Marker.ASR),
        *LAYOUT.wrap_audio(codes),
        *text_ids,
        end,
    ]
    assert first.ids_T[first.is_target_T].tolist() == [*text_ids, end]


def test_users_type_in_the_share_that_is_asked_for() -> None:
    examples = list(chat_examples(_spoken_rows(100), CONFIG, text=TEXT, layout=LAYOUT, seed=1))

    begin = LAYOUT.marker(Marker.AUDIO_BEGIN)
    is_typed = [begin not in example.ids_T[:2] for _, example in examples]
    assert 0.44 < sum(is_typed) / len(is_typed) < 0.56


def test_rows_hold_every_example_whole_and_learn_what_the_copies_learn() -> None:
    made = chat_rows(_spoken_rows(9), CONFIG, text=TEXT, layout=LAYOUT, seed=1)
    examples = list(chat_examples(_spoken_rows(9), CONFIG, text=TEXT, layout=LAYOUT, seed=1))

    batch = made.rows.batch(range(made.rows.num_rows))

    assert made.num_examples == len(examples)
    assert made.num_too_long == 0
    assert batch.is_target_BL.sum() == sum(example.is_target_T.sum() for _, example in examples)
    assert (batch.tokens_BL != LAYOUT.marker(Marker.PAD)).sum() == sum(
        len(example.ids_T) for _, example in examples
    )


def test_examples_longer_than_a_row_are_left_out_and_counted() -> None:
    rows = [*_spoken_rows(2), *_spoken_rows(1)]
    rows[2]["turns"][1]["codes"] = [1] * 600

    made = chat_rows(rows, CONFIG, text=TEXT, layout=LAYOUT, seed=1)

    assert (made.num_examples, made.num_too_long) == (12, 6)


def test_rows_that_hold_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="none of 6 dialogue examples fits into 16 tokens"):
        chat_rows(
            _spoken_rows(1),
            CONFIG.model_copy(update={"row_length": 16}),
            text=TEXT,
            layout=LAYOUT,
            seed=1,
        )


def test_equal_answers_are_spoken_once_and_alike() -> None:
    asked: list[SpanRequest] = []

    class Counting(Spelling):
        def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
            asked.extend(spans)
            return super().synthesise(spans)

    rows = [_dialogue(str(index), "what is it", "a dog") for index in range(20)]
    speakers = Speakers(Spelling(), Counting(), lambda text: len(TEXT.encode(text)))

    spoken = list(speak_dialogues(rows, speakers, DialogueConfig()))

    assert [span.text for span in asked] == ["a dog"]
    assert len({tuple(one.row["turns"][1]["codes"]) for one in spoken}) == 1
