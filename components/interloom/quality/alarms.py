"""Known failures of speech-text pre-training, looked for in a run's numbers (spec section 11).

An alarm stops nothing: it says which number looks like a known failure, and what to look at.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from interloom.ports.catalog import Metric

P1_SPEECH_SHARE = 0.62
"""Of the tokens of interleaved data at eta 0.3 and 12.5 Hz (P1, section 4)."""

_SHARE_SLACK = 0.15
_TEXT_LOSS = 0.02  # LST: about two points at as much speech as text


@dataclass(frozen=True, slots=True)
class Alarm:
    """A number that looks like a known failure.

    Attributes:
        signature: The failure, in a few words.
        observed: The number.
        meaning: What it is a sign of, and what to look at.
    """

    signature: str
    observed: str
    meaning: str


@dataclass(frozen=True, slots=True)
class _Signature:
    """One number and when it is a sign."""

    metric: str
    is_bad: Callable[[float], bool]
    signature: str
    meaning: str


_SIGNATURES = (
    _Signature(
        "tokenizer/wer",
        lambda rate: rate > 0.25,
        "words are lost in tokenization",
        "the codes do not carry what was said: look at the codebook's use and the frame rate",
    ),
    _Signature(
        "text_to_token/round_trip_wer",
        lambda rate: rate > 0.25,
        "words are lost in synthesis",
        "what is woven says something else than its text: train text-to-token longer, guard more",
    ),
    _Signature(
        "chat/answer_wer",
        lambda rate: rate > 0.5,
        "spoken answers say other words than written ones",
        "fine-tuning or capacity falls short: more dialogues, more steps, a larger model",
    ),
    _Signature(
        "chat/complete",
        lambda share: share < 0.8,
        "answers do not end",
        "fine-tuning saw too few whole answers, or rows cut them off: raise sft.row_length",
    ),
    _Signature(
        "tokenizer/codes_used",
        lambda share: share < 0.3,
        "the codebook collapses",
        "few codes carry everything: restart dead codes more often, or use a smaller codebook",
    ),
    _Signature(
        "interleave/speech_share",
        lambda share: abs(share - P1_SPEECH_SHARE) > _SHARE_SLACK,
        "interleaved data has an unusual share of speech",
        "P1 has 62 % at eta 0.3 and 12.5 Hz: spans run on or are cut, or eta or rate differ",
    ),
    _Signature(
        "cloze/S->S/story/low",
        lambda low: low <= 0.5,
        "no better than chance at spoken stories",
        "speech is not modelled yet: more speech and interleaved tokens, or more steps",
    ),
)


def alarms(numbers: Mapping[str, float], before: Mapping[str, float] | None = None) -> list[Alarm]:
    """The signatures that a run's results show.

    Args:
        numbers: Of all its stages, by name.
        before: Those of the run that it is compared with, if there is one.
    """
    found = [
        Alarm(one.signature, f"{one.metric} = {numbers[one.metric]:.3f}", one.meaning)
        for one in _SIGNATURES
        if one.metric in numbers and one.is_bad(numbers[one.metric])
    ]
    found += _endless(numbers)
    if before is not None:
        found += _forgotten(numbers, before)
    return found


def training_alarms(points: Iterable[Metric]) -> list[Alarm]:
    """What the curves of one stage show: spikes, skipped steps, waiting, one-sided gradients."""
    last: dict[str, float] = {}
    steps: dict[str, list[int]] = {}
    for point in points:
        if point.step is not None:
            last[point.name] = point.value
            steps.setdefault(point.name, []).append(point.step)
    found = []
    for name, what in (("train/spike", "the loss leapt"), ("train/skipped", "steps were left out")):
        if name in steps:
            shown = ", ".join(map(str, steps[name][:5]))
            meaning = "the rows are named with the curve: look at them, and hear them"
            found.append(Alarm(what, f"{len(steps[name])} times, at step {shown}", meaning))
    if (wait := last.get("telemetry/data_wait_share", 0.0)) > 0.05:
        meaning = "the model waits for its rows: is the store on a slow disk?"
        found.append(Alarm("training waits for data", f"{100 * wait:.0f} % of the time", meaning))
    for name, share in sorted(last.items()):
        modality = name.removeprefix("train/gradient_share/")
        if modality in {"text", "speech"} and share > 0.95:
            meaning = f"{modality} drowns the rest: look at the mixture and at its loss"
            found.append(Alarm("the gradient is one-sided", f"{name} = {share:.3f}", meaning))
    return found


def _endless(numbers: Mapping[str, float]) -> Iterator[Alarm]:
    """Error rates over 100 %: more words than were said."""
    for name, value in sorted(numbers.items()):
        if name.endswith("wer") and value > 1:
            meaning = "more is written than was said: the model does not stop, look at its ends"
            yield Alarm("it does not stop", f"{name} = {value:.3f}", meaning)


def _forgotten(numbers: Mapping[str, float], before: Mapping[str, float]) -> Iterator[Alarm]:
    """Text that is understood worse than in the run before."""
    for name, value in sorted(numbers.items()):
        lost = before.get(name, value) - value
        is_text = name.startswith("cloze/T->T/") and not name.endswith("/low")
        if is_text and lost > _TEXT_LOSS:
            meaning = "text is forgotten as the share of speech grows: raise the share of text"
            yield Alarm("text ability falls", f"{name}: {100 * lost:.1f} points less", meaning)
