"""Questions to the base model: an answer keeps to one modality."""

import numpy as np

from interloom.core.modality import Modality
from interloom.evaluation.questions import OneModality
from interloom.vocabulary.layout import Marker, VocabularyLayout

LAYOUT = VocabularyLayout(10, 10, text_tokenizer="t", tokenizer="s")
IDS = np.arange(LAYOUT.size, dtype=np.int32)
NOTHING_YET = np.zeros(0, np.int32)


def test_a_written_answer_is_text_up_to_the_end_of_the_document() -> None:
    answer = OneModality(LAYOUT, Modality.TEXT)

    end = LAYOUT.marker(Marker.DOCUMENT_END)
    expected = {*IDS[LAYOUT.is_text(IDS)].tolist(), end}
    assert set(IDS[answer.allowed(NOTHING_YET)].tolist()) == expected
    assert answer.stop_ids == (end,)


def test_a_spoken_answer_does_not_turn_to_text_in_the_middle_of_a_sentence() -> None:
    answer = OneModality(LAYOUT, Modality.SPEECH)

    assert IDS[answer.allowed(NOTHING_YET)].tolist() == IDS[LAYOUT.is_speech(IDS)].tolist()
    assert answer.stop_ids == ()
