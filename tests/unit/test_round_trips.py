from collections.abc import Sequence

import numpy as np

from interloom.config.evaluation import EvaluationConfig
from interloom.evaluation.choice import ChosenSet
from interloom.evaluation.measures import Findings, Judging, Measure, merged
from interloom.evaluation.round_trips import measure_text_to_token, measure_tokenizer
from interloom.evaluation.spoken import Codes, Waveform, speak_texts
from interloom.text_to_token.spans import SpanRequest, SpanResult

JUDGING = Judging(EvaluationConfig(num_resamples=20), seed=0)


class Letters:
    """Speaks a letter as its number and reads it back; refuses the letter z, mishears b as d.

    The voice ``loud`` speaks capitals.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        self.asked += [span.text for span in spans]
        return [self._say(span) for span in spans]

    def _say(self, span: SpanRequest) -> SpanResult:
        text = span.text.upper() if span.voice == "loud" else span.text
        is_refused = "z" in text
        codes = np.array([] if is_refused else [ord(letter) for letter in text], np.int32)
        return SpanResult(span.span_id, codes, "loop" if is_refused else "", 1)

    def encode(self, waveforms: Sequence[Waveform]) -> list[Codes]:
        return [waveform.astype(np.int32) for waveform in waveforms]

    def read(self, codes: Sequence[Codes]) -> list[str]:
        return ["".join(chr(one) for one in row).replace("b", "d") for row in codes]


def _texts(*texts: str) -> ChosenSet:
    items = tuple({"id": str(index), "text": text} for index, text in enumerate(texts))
    return ChosenSet("texts", items, len(items))


def _values(findings: Findings) -> dict[str, float]:
    return {measure.name: measure.estimate.value for measure in findings.measures}


def test_a_tokenizer_is_judged_by_what_its_codes_say() -> None:
    rows = [{"id": "1", "text": "a big cat", "codes": [ord(letter) for letter in "a big cat"]}]

    findings = measure_tokenizer(ChosenSet("utterances", tuple(rows), 1), Letters(), JUDGING)

    assert _values(findings) == {"tokenizer/wer": 1 / 3}
    assert findings.details["tokenizer"] == [{"text": "a big cat", "heard": "a dig cat"}]


def test_a_span_that_was_refused_counts_as_not_understood() -> None:
    letters = Letters()

    findings = measure_text_to_token(_texts("one two", "a zoo here"), letters, letters, JUDGING)

    assert _values(findings) == {
        "text_to_token/round_trip_wer": 3 / 5,
        "text_to_token/accepted": 1 / 2,
    }


def test_each_text_is_spoken_once_and_refused_ones_are_left_out() -> None:
    letters = Letters()

    spoken = speak_texts(["b", "a", "zz", "a", "b"], letters)

    assert letters.asked == ["a", "b", "zz"]
    assert {text: codes.tolist() for text, codes in spoken.items()} == {"a": [97], "b": [98]}


def test_a_voice_speaks_every_text_that_it_can() -> None:
    spoken = speak_texts(["b", "zz"], Letters(), voice="loud")

    assert {text: codes.tolist() for text, codes in spoken.items()} == {"b": [66], "zz": [90, 90]}


def test_findings_are_put_together_in_order() -> None:
    letters = Letters()
    one = measure_text_to_token(_texts("a"), letters, letters, JUDGING)
    two = Findings((Measure("x", one.measures[0].estimate),), (), {"x": 1})

    together = merged([one, two])

    assert [measure.name for measure in together.measures][-1] == "x"
    assert set(together.details) == {"text_to_token", "x"}
