"""Spoken questions to the base model: it goes on in text, or in speech that is read back.

Zero-shot and greedy; right if any normalised alias stands in what follows (spec 9, row 15).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.core.modality import Modality
from interloom.evaluation.choice import ChosenSet, Item
from interloom.evaluation.error_rate import holds_answer
from interloom.evaluation.measures import Findings, Judging, Measure, by_group
from interloom.evaluation.spoken import Codes
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import Ids, Marker, VocabularyLayout

Mask = NDArray[np.bool_]


class OneModality:
    """Keeps an answer in text until the end of the document, or in speech.

    Speech goes on for as long as is asked: where it ends, interleaved data go on in text in the
    middle of a sentence, so that its end is no end of an answer.
    """

    def __init__(self, layout: VocabularyLayout, modality: Modality) -> None:
        ids_V = np.arange(layout.size, dtype=np.int32)
        self.stop_ids: tuple[int, ...] = ()
        self._allowed_V: Mask = layout.is_speech(ids_V)
        if modality is Modality.TEXT:
            self.stop_ids = (layout.marker(Marker.DOCUMENT_END),)
            self._allowed_V = layout.is_text(ids_V)
            self._allowed_V[list(self.stop_ids)] = True

    def allowed(self, _generated_T: Ids) -> Mask:
        """The same mask of shape (V,) whatever came before."""
        return self._allowed_V


Answers = Callable[[Sequence[Ids], OneModality, int], list[Ids]]
"""Prompts, what is allowed and the most new tokens give what the model says, greedily."""


@dataclass(frozen=True, slots=True)
class Oral:
    """Who is asked, and what turns its tokens into text."""

    generate: Answers
    layout: VocabularyLayout
    text: TextTokenizer
    read: Callable[[Sequence[Codes]], list[str]]
    spoken: Mapping[str, Codes]


def measure_questions(chosen: ChosenSet, oral: Oral, judging: Judging) -> Findings:
    """Both ways of answering, over all questions and by group."""
    rows = [row for row in chosen.items if row["question"] in oral.spoken]
    said = {
        "S->T": _answers_in_text(rows, oral, judging),
        "S->S": _answers_in_speech(rows, oral, judging),
    }
    measures: list[Measure] = []
    for mode, texts in said.items():
        right = [holds_answer(text, row["answers"]) for row, text in zip(rows, texts, strict=True)]
        measures += by_group(f"questions/{mode}", chosen, rows, right, judging)
    table = [
        {"id": row["id"], "question": row["question"], "expected": row["answers"]}
        | {mode: texts[place] for mode, texts in said.items()}
        for place, row in enumerate(rows)
    ]
    return Findings(tuple(measures), (chosen,), {"questions": table})


def _answers_in_text(rows: Sequence[Item], oral: Oral, judging: Judging) -> list[str]:
    prompts = [oral.layout.wrap_audio(oral.spoken[row["question"]]) for row in rows]
    allowed = OneModality(oral.layout, Modality.TEXT)
    made = oral.generate(prompts, allowed, judging.config.max_answer_text)
    return [oral.text.decode(ids[oral.layout.is_text(ids)].tolist()) for ids in made]


def _answers_in_speech(rows: Sequence[Item], oral: Oral, judging: Judging) -> list[str]:
    """The question and what follows are one recording, as in unsupervised speech."""
    prompts = [oral.layout.wrap_audio(oral.spoken[row["question"]])[:-1] for row in rows]
    allowed = OneModality(oral.layout, Modality.SPEECH)
    made = oral.generate(prompts, allowed, judging.config.max_answer_codes)
    return oral.read([oral.layout.codes(ids[oral.layout.is_speech(ids)]) for ids in made])
