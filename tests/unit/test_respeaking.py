import numpy as np
import pytest

from interloom.config.text_to_token import SynthesisConfig
from interloom.core.errors import DataError
from interloom.interleaving.respeaking import KeptSpan, respeak
from interloom.testing.store import MemoryStore

ROW = {
    "id": "d",
    "text": "one two three",
    "made_by": "speech_tokens:" + "a" * 64,
    "tokenizer": "b" * 64,
}


def kept() -> KeptSpan:
    span = {"byte_start": 3, "byte_stop": 7, "span_id": "d/1-2"}
    return KeptSpan(ROW, span, np.array([1, 2], np.int32), SynthesisConfig())


def test_a_span_says_the_words_it_stands_for() -> None:
    assert kept().text == "two"


def test_a_recording_cannot_be_spoken_again() -> None:
    with pytest.raises(DataError, match=r"made by speech_tokens.*not synthesised"):
        respeak(MemoryStore(), kept())
