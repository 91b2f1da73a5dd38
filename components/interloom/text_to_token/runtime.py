"""A trained text-to-token model, ready to speak spans."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np
import torch

from interloom.config.text_to_token import SynthesisConfig
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.ports.progress import NoProgress, Progress
from interloom.ports.store import ArtifactStore
from interloom.text_to_token.decoding import TorchEngine
from interloom.text_to_token.files import load_model
from interloom.text_to_token.guards import (
    Refusal,
    patience,
    refuse_codes,
    refuse_text,
    word_error_rates,
)
from interloom.text_to_token.jobs import (
    Decoded,
    Job,
    LoopRule,
    Sampling,
    SynthesisEngine,
    engine_name,
)
from interloom.text_to_token.ledger import Ledger
from interloom.text_to_token.model import TextToTokenModel
from interloom.text_to_token.prompt import Prompter
from interloom.text_to_token.spans import Codes, SpanRequest, SpanResult

Judge = Callable[[Sequence[Codes]], list[str]]

_DEFAULT = SynthesisConfig()
_NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class _Try:
    """One attempt at one span.

    Attributes:
        place: Index among the requests.
        span: The request.
        ids: Of its text.
        number: Of the attempt.
        refusals: Of the attempts before.
        drawn: Codes of the attempts before.
    """

    place: int
    span: SpanRequest
    ids: tuple[int, ...]
    number: int
    refusals: tuple[str, ...] = ()
    drawn: int = 0


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the guards say of an attempt, and its error rate if it was read back."""

    refusal: Refusal | None
    error_rate: float | None = None


class TextToToken:
    """Speaks spans of text as speech codes.

    A span's codes depend on its id, its text, the seed, the model, the engine and the numeric
    class: never on the spans beside it.

    Attributes:
        prompter: Makes prompts; knows the vocabulary and the voices.
        config: Decoding and guards.
        ledger: What all spans so far cost.
    """

    def __init__(
        self,
        engine: SynthesisEngine,
        prompter: Prompter,
        *,
        config: SynthesisConfig = _DEFAULT,
        seed: int = 0,
        judge: Judge | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._engine = engine
        self.prompter = prompter
        self.config = config
        self.ledger = Ledger()
        self._seed = seed
        self._judge = judge
        self._progress = progress or NoProgress()

    @classmethod
    def of(
        cls,
        model: TextToTokenModel,
        prompter: Prompter,
        *,
        config: SynthesisConfig = _DEFAULT,
        seed: int = 0,
        judge: Judge | None = None,
    ) -> "TextToToken":
        """Over the engine of this package."""
        return cls(
            _engine(model, prompter, config), prompter, config=config, seed=seed, judge=judge
        )

    @property
    def voices(self) -> tuple[str, ...]:
        """Whom it can speak as: the one that its configuration names, or all that it knows."""
        return (self.config.voice,) if self.config.voice else self.prompter.voices

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order; a span that cannot be spoken is refused with its reason."""
        started = time.process_time()
        results: dict[int, SpanResult] = {}
        pending = []
        for place, span in enumerate(spans):
            refusal, unsaid = refuse_text(span.text, self.config), ""
            ids = () if refusal else tuple(self.prompter.text_ids(span.text))
            if refusal is None and not self.prompter.can_say(ids):
                refusal, unsaid = Refusal.UNPRONOUNCEABLE, self.prompter.unsaid(span.text)
            if refusal is None:
                pending.append(_Try(place, span, ids, span.attempt))
            else:
                results[place] = SpanResult(span.span_id, _NOTHING, refusal.value, 0, unsaid=unsaid)
        while pending:
            pending = self._round(pending, results)
            self._progress.update(len(results), len(spans), "spans spoken")
        made = [results[place] for place in range(len(spans))]
        self.ledger += _settled(made, time.process_time() - started)
        return made

    def _round(self, tries: Sequence[_Try], results: dict[int, SpanResult]) -> list[_Try]:
        """Make one attempt at each; settled ones go to ``results``, the rest comes back."""
        decoded = self._engine.decode([self._job(one) for one in tries])
        verdicts = self._judge_all(tries, decoded)
        again = []
        for one, codes, verdict in zip(tries, decoded, verdicts, strict=True):
            settled = self._settle(one, codes, verdict)
            if settled is not None:
                results[one.place] = settled
            elif verdict.refusal is not None:
                refusals = (*one.refusals, verdict.refusal.value)
                drawn = one.drawn + len(codes.codes)
                again.append(replace(one, number=one.number + 1, refusals=refusals, drawn=drawn))
        self.ledger += Ledger(
            attempts=len(tries),
            retries=sum(bool(one.refusals) for one in tries),
            drawn_tokens=sum(len(one.codes) for one in decoded),
            read_back=sum(one.error_rate is not None for one in verdicts),
        )
        return again

    def _settle(self, one: _Try, decoded: Decoded, verdict: _Verdict) -> SpanResult | None:
        """The span's result, or None if it is to be tried again."""
        made, refusal = len(one.refusals) + 1, verdict.refusal
        if refusal is not None and made < self.config.max_attempts:
            return None
        return SpanResult(
            one.span.span_id,
            decoded.codes if refusal is None else _NOTHING,
            reason=refusal.value if refusal else "",
            attempts=made,
            refusals=(*one.refusals, refusal.value) if refusal else one.refusals,
            error_rate=verdict.error_rate,
            drawn_tokens=one.drawn + len(decoded.codes),
        )

    def _job(self, one: _Try) -> Job:
        """Voice and random numbers come from the span's own stream."""
        rng = _stream(self._seed, one.span.span_id, one.number)
        drawn = self.prompter.voices[int(rng.random() * len(self.prompter.voices))]
        limit = patience(one.span.text, self.config)
        config = self.config
        temperature = config.retry_temperature if one.number else config.temperature
        return Job(
            prompt=self.prompter.prompt(one.ids, one.span.voice or config.voice or drawn),
            limit=limit,
            draws=rng.random(limit + 1),
            sampling=Sampling(temperature, config.top_p),
            loop=LoopRule(config.loop_tokens, config.loop_period),
        )

    def _judge_all(self, tries: Sequence[_Try], decoded: Sequence[Decoded]) -> list[_Verdict]:
        """What the guards say of each attempt; a share of those that pass is read back."""
        verdicts = [
            _Verdict(
                refuse_codes(one.span.text, codes.codes, ended=codes.ended, config=self.config)
            )
            for one, codes in zip(tries, decoded, strict=True)
        ]
        if self._judge is None or self.config.judged_share == 0:
            return verdicts
        chosen = [
            at
            for at, one in enumerate(tries)
            if verdicts[at].refusal is None
            and _unit(f"judge/{self._seed}/{one.span.span_id}") < self.config.judged_share
        ]
        heard = self._judge([decoded[at].codes for at in chosen]) if chosen else []
        rates = word_error_rates([tries[at].span.text for at in chosen], heard)
        for at, rate in zip(chosen, rates, strict=True):
            misread = Refusal.MISREAD if rate > self.config.max_error_rate else None
            verdicts[at] = _Verdict(misread, rate)
        return verdicts


def _settled(results: Sequence[SpanResult], cpu_s: float) -> Ledger:
    """The part of the ledger that finished spans make."""
    refusals = Counter(reason for one in results for reason in one.refusals)
    refusals.update(one.reason for one in results if not one.attempts)
    accepted = [one for one in results if one.accepted]
    return Ledger(
        spans=len(results),
        accepted=len(accepted),
        accepted_tokens=sum(len(one.codes) for one in accepted),
        refusals=refusals,
        cpu_s=cpu_s,
    )


def _stream(seed: int, span_id: str, attempt: int) -> np.random.Generator:
    """The random numbers of one attempt at one span; step i takes the i-th."""
    digest = hashlib.sha256(f"{seed}/{attempt}/{span_id}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _unit(text: str) -> float:
    """A number in [0, 1) from a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2.0**56


def _engine(
    model: TextToTokenModel, prompter: Prompter, config: SynthesisConfig
) -> SynthesisEngine:
    """The one that the configuration names; on a GPU, where this process may use one.

    Raises:
        ConfigError: vLLM is asked for, and the model's positions are places in time.
        MissingError: vLLM is asked for, and not installed.
    """
    engine_name(config.engine)  # which refuses what is not here
    slots, offset = config.num_slots, prompter.ids.speech_offset
    match config.engine:
        case "torch":
            model = model.to("cuda" if torch.cuda.is_available() else "cpu")
            return TorchEngine(model, num_slots=slots, speech_offset=offset)
        case "vllm":
            from interloom.text_to_token.vllm_engine import VllmEngine

            if prompter.frames_per_byte is not None:
                raise ConfigError(
                    "engine is 'vllm', which counts positions as a language model of text does, "
                    "but this model's are places in time; train one that begins from a "
                    "text_to_token.base, or set engine to 'torch'"
                )
            return VllmEngine(model, num_slots=slots, speech_offset=offset)
        case _:
            assert_never(config.engine)


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
    engine = _engine(model, prompter, config)
    return TextToToken(engine, prompter, config=config, seed=seed, judge=judge, progress=progress)


def need_tokenizer(model: TextToToken, ref: ArtifactRef, tokenizer: ArtifactRef) -> None:
    """Refuse a model that speaks the codes of another speech tokenizer.

    Raises:
        DataError: It does.
    """
    held = model.prompter.layout.tokenizer
    if held != tokenizer.id:
        raise DataError(
            f"{ref} was trained with speech tokenizer {held[:12]}, but codes of "
            f"{tokenizer.id[:12]} are asked for; train it again with this one"
        )
