"""Known failures, recognised in a run's numbers."""

import pytest

from interloom.ports.catalog import Metric
from interloom.quality.alarms import alarms, training_alarms

GOOD = {
    "tokenizer/wer": 0.05,
    "tokenizer/codes_used": 0.9,
    "text_to_token/round_trip_wer": 0.07,
    "interleave/speech_share": 0.6,
    "cloze/S->S/story/low": 0.6,
    "cloze/T->T/story": 0.9,
    "chat/answer_wer": 0.2,
    "chat/complete": 0.99,
}


def test_good_numbers_raise_no_alarm() -> None:
    assert alarms(GOOD, GOOD) == []


@pytest.mark.parametrize(
    ("name", "value", "signature"),
    [
        ("tokenizer/wer", 0.4, "words are lost in tokenization"),
        ("text_to_token/round_trip_wer", 0.4, "words are lost in synthesis"),
        ("chat/answer_wer", 0.7, "spoken answers say other words than written ones"),
        ("chat/complete", 0.5, "answers do not end"),
        ("tokenizer/codes_used", 0.1, "the codebook collapses"),
        ("interleave/speech_share", 0.3, "interleaved data has an unusual share of speech"),
        ("cloze/S->S/story/low", 0.48, "no better than chance at spoken stories"),
        ("cloze/T->T/story", 0.85, "text ability falls"),
        ("decoder/round_trip_wer", 1.4, "it does not stop"),
    ],
)
def test_each_failure_is_recognised_by_its_number(name: str, value: float, signature: str) -> None:
    found = alarms(GOOD | {name: value}, GOOD)

    assert [alarm.signature for alarm in found] == [signature]
    assert name in found[0].observed


def test_curves_show_spikes_waiting_and_one_sided_gradients() -> None:
    points = [
        Metric("train/loss", 2.0, 10),
        Metric("train/spike", 30.0, 7),
        Metric("train/skipped", 1.0, 7),
        Metric("telemetry/data_wait_share", 0.2, 10),
        Metric("train/gradient_share/speech", 0.99, 10),
        Metric("train/gradient_share/text", 0.01, 10),
    ]

    found = training_alarms(points)

    assert [alarm.signature for alarm in found] == [
        "the loss leapt",
        "steps were left out",
        "training waits for data",
        "the gradient is one-sided",
    ]
    assert found[0].observed == "1 times, at step 7"
    assert training_alarms(points[:1]) == []
