"""A trained text-to-token model, ready to speak spans."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from interloom.config.text_to_token import SynthesisConfig
from interloom.core.artifacts import ArtifactRef
from interloom.ports.progress import NoProgress, Progress
from interloom.ports.store import ArtifactStore
from interloom.text_to_token.decoding import Decoded, Job, Sampling, decode
from interloom.text_to_token.files import load_model
from interloom.text_to_token.guards import (
    Refusal,
    longest,
    refuse_codes,
    refuse_text,
    word_error_rates,
)
from interloom.text_to_token.model import TextToTokenModel
from interloom.text_to_token.prompt import Prompter
from interloom.text_to_token.spans import Codes, SpanRequest, SpanResult

Judge = Callable[[Sequence[Codes]], list[str]]

_DEFAULT = SynthesisConfig()
_NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class _Try:
    """One attempt at one span; ``place`` is its index among the requests."""

    place: int
    span: SpanRequest
    ids: tuple[int, ...]
    number: int


class TextToToken:
    """Speaks spans of text as speech codes.

    A span's codes depend on its id, its text, the seed, the model and the numeric class: never on
    the spans beside it.
    """

    def __init__(
        self,
        model: TextToTokenModel,
        prompter: Prompter,
        *,
        config: SynthesisConfig = _DEFAULT,
        seed: int = 0,
        judge: Judge | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._model = model.eval()
        self.prompter = prompter
        self.config = config
        self._seed = seed
        self._judge = judge
        self._progress = progress or NoProgress()

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order; a span that cannot be spoken is refused with its reason."""
        results: dict[int, SpanResult] = {}
        pending = []
        for place, span in enumerate(spans):
            ids = tuple(self.prompter.text_ids(span.text))
            refusal = self._refuse_before(span.text, ids)
            if refusal is None:
                pending.append(_Try(place, span, ids, span.attempt))
            else:
                results[place] = _refused(span, refusal, 0)
        while pending:
            pending = self._round(pending, results)
            self._progress.update(len(results), len(spans), "spans spoken")
        return [results[place] for place in range(len(spans))]

    def _refuse_before(self, text: str, ids: Sequence[int]) -> Refusal | None:
        """Why ``text`` is not even tried."""
        if refuse_text(text) or not self.prompter.can_say(ids):
            return Refusal.UNPRONOUNCEABLE
        return None

    def _round(self, tries: Sequence[_Try], results: dict[int, SpanResult]) -> list[_Try]:
        """Make one attempt at each; settled ones go to ``results``, the rest comes back."""
        first = [one for one in tries if one.number == 0]
        later = [one for one in tries if one.number > 0]
        again = []
        for group, temperature in (
            (first, self.config.temperature),
            (later, self.config.retry_temperature),
        ):
            decoded = self._decode(group, temperature)
            refusals = self._refuse_after(group, decoded)
            for one, codes, refusal in zip(group, decoded, refusals, strict=True):
                settled = self._settle(one, codes, refusal)
                if settled is None:
                    again.append(_Try(one.place, one.span, one.ids, one.number + 1))
                else:
                    results[one.place] = settled
        return again

    def _settle(self, one: _Try, decoded: Decoded, refusal: Refusal | None) -> SpanResult | None:
        """The span's result, or None if it is to be tried again."""
        made = one.number - one.span.attempt + 1
        if refusal is None:
            return SpanResult(one.span.span_id, decoded.codes, reason="", attempts=made)
        if made >= self.config.max_attempts:
            return _refused(one.span, refusal, made)
        return None

    def _decode(self, tries: Sequence[_Try], temperature: float) -> list[Decoded]:
        """The model's codes for one attempt at each span."""
        return decode(
            self._model,
            [self._job(one) for one in tries],
            num_slots=self.config.num_slots,
            speech_offset=self.prompter.layout.speech_offset,
            sampling=Sampling(temperature, self.config.top_p),
        )

    def _job(self, one: _Try) -> Job:
        """Voice and random numbers come from the span's own stream."""
        rng = _stream(self._seed, one.span.span_id, one.number)
        drawn = self.prompter.voices[int(rng.random() * len(self.prompter.voices))]
        limit = longest(one.span.text, self.config)
        prompt = self.prompter.prompt(one.ids, self.config.voice or drawn)
        return Job(prompt, limit, rng.random(limit + 1))

    def _refuse_after(
        self, tries: Sequence[_Try], decoded: Sequence[Decoded]
    ) -> list[Refusal | None]:
        """The guard that each attempt breaks, if any."""
        refusals: list[Refusal | None] = [
            refuse_codes(one.span.text, codes.codes, ended=codes.ended, config=self.config)
            for one, codes in zip(tries, decoded, strict=True)
        ]
        if self._judge is None or self.config.judged_share == 0:
            return refusals
        chosen = [
            at
            for at, one in enumerate(tries)
            if refusals[at] is None
            and _unit(f"judge/{self._seed}/{one.span.span_id}") < self.config.judged_share
        ]
        heard = self._judge([decoded[at].codes for at in chosen]) if chosen else []
        rates = word_error_rates([tries[at].span.text for at in chosen], heard)
        for at, rate in zip(chosen, rates, strict=True):
            refusals[at] = Refusal.MISREAD if rate > self.config.max_error_rate else None
        return refusals


def _refused(span: SpanRequest, refusal: Refusal, attempts: int) -> SpanResult:
    """A span that stays text."""
    return SpanResult(span.span_id, _NOTHING, reason=refusal.value, attempts=attempts)


def _stream(seed: int, span_id: str, attempt: int) -> np.random.Generator:
    """The random numbers of one attempt at one span; step i takes the i-th."""
    digest = hashlib.sha256(f"{seed}/{attempt}/{span_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _unit(text: str) -> float:
    """A number in [0, 1) from a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2.0**56


def load_text_to_token(
    store: ArtifactStore,
    ref: ArtifactRef,
    *,
    config: SynthesisConfig = _DEFAULT,
    seed: int = 0,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> TextToToken:
    """The model of an artifact, with the text tokenizer that it names.

    Args:
        store: Holds both.
        ref: A text-to-token model.
        config: Decoding and guards.
        seed: Of every span's stream.
        judge: Reads codes back as text, for the share of spans that ``config`` asks to judge:
            the ``read`` of the speech tokenizer.
        progress: Told after each round of attempts.
    """
    model, prompter = load_model(store, ref)
    return TextToToken(model, prompter, config=config, seed=seed, judge=judge, progress=progress)
