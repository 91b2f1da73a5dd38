"""The rules by which words are chosen to be spoken, behind one interface.

Each rule depends on a document's words and its own random stream alone, so that documents can be
cut in any order and by any number of workers, and rules can be compared on the same corpus.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol, assert_never

import numpy as np

from interloom.config.interleaving import (
    FineAlternation,
    PoissonSpans,
    SentenceAlternation,
    SpanPolicy,
    TextThenSpeech,
)
from interloom.core.errors import ConfigError
from interloom.interleaving.sampling import NO_SPANS, SpanRule, WordSpans, choose_spans
from interloom.text.words import Words

_SENTENCE_END = re.compile(rb"(?:[.!?]|\xe2\x80\xa6|\xe3\x80\x82|\xef\xbc\x81|\xef\xbc\x9f)\W*$")
_BREAK = re.compile(rb"\n[ \t\r]*\n")
_MIN_LAST_WORDS = 3  # P2: a shorter last segment joins the one before it
_FEWEST_WORDS = 2  # P2: no segment is drawn shorter
_DRAWS = 64  # for a mean that has no formula


@dataclass(frozen=True, slots=True)
class Document:
    """What a rule may look at.

    Attributes:
        words: Places of the words.
        data: The UTF-8 text.
    """

    words: Words
    data: bytes


class Policy(Protocol):
    """One rule."""

    @property
    def name(self) -> str:
        """Its kind and version: ``poisson-1``."""
        ...

    def is_too_short(self, num_words: int) -> bool:
        """Whether a document of so many words stays text."""
        ...

    def choose(self, document: Document, rng: np.random.Generator) -> WordSpans:
        """The spans of a document that is not too short; there may be none."""
        ...

    def expected_words(self, document: Document) -> float:
        """How many words ``choose`` chooses, on average over its random numbers."""
        ...


def make_policy(config: SpanPolicy, max_words: int) -> Policy:
    """The rule that a recipe asks for.

    Args:
        config: Of the recipe.
        max_words: No span may be longer.

    Raises:
        ConfigError: The rule's spans are longer than that.
    """
    name = f"{config.kind}-{config.version}"
    match config:
        case PoissonSpans():
            return Poisson(name, SpanRule(config.speech_ratio, config.mean_words, max_words))
        case TextThenSpeech():
            return Halves(name, config, max_words)
        case FineAlternation():
            if config.speech_words > max_words:
                raise ConfigError(
                    f"interleave.policy.speech_words is {config.speech_words}, but a span holds at "
                    f"most {max_words} words: lower it, or raise max_span_seconds"
                )
            return Fine(name, config.text_words, config.speech_words)
        case SentenceAlternation():
            return Sentences(name, max_words)
        case _:
            assert_never(config)


@dataclass(frozen=True, slots=True)
class Poisson:
    """P1: spans of Poisson length that hold an exact share of the words."""

    name: str
    rule: SpanRule

    def is_too_short(self, num_words: int) -> bool:
        """Whether the share would not be one whole word."""
        return num_words < self.rule.min_document_words

    def choose(self, document: Document, rng: np.random.Generator) -> WordSpans:
        """Spans whose lengths are counted in words as speech has them."""
        return choose_spans(len(document.words), self.scaled(document.words), rng)

    def scaled(self, words: Words) -> SpanRule:
        """The rule for a document in which several characters make a word."""
        rule = self.rule
        if words.units_per_word == 1:
            return rule
        return SpanRule(rule.ratio, rule.mean_words * words.units_per_word, rule.max_words)

    def is_plain(self, num_words: int) -> bool:
        """Whether lengths stay as they are drawn: there is room between all spans."""
        spans = 2 * self.rule.ratio * num_words / self.rule.mean_words
        return spans < (1 - self.rule.ratio) * num_words

    def expected_words(self, document: Document) -> float:
        """The share itself."""
        return self.rule.ratio * len(document.words)


@dataclass(frozen=True, slots=True)
class Halves:
    """P2: a stretch of text, then half as many spoken words, to the end."""

    name: str
    config: TextThenSpeech
    max_words: int

    def is_too_short(self, num_words: int) -> bool:
        """Whether there is no room for a segment of each kind."""
        return num_words < 2 * _MIN_LAST_WORDS

    def choose(self, document: Document, rng: np.random.Generator) -> WordSpans:
        """Every other segment."""
        return self._draw(len(document.words), rng)

    def expected_words(self, document: Document) -> float:
        """The mean over draws of its own."""
        return _mean_words(self, len(document.words))

    def _draw(self, num_words: int, rng: np.random.Generator) -> WordSpans:
        """Segments of alternating kind, from the first word to the last."""
        config = self.config
        most = max(
            _FEWEST_WORDS, min(config.max_text_words, int(config.max_text_share * num_words))
        )
        least = min(max(_FEWEST_WORDS, config.min_text_words), most)
        is_speech = bool(rng.random() < 0.5)
        text_words = int(rng.integers(least, most + 1))
        spans, at = list[tuple[int, int, bool]](), 0
        while at < num_words:
            if not is_speech:
                text_words = int(rng.integers(least, most + 1))
            asked = self._speech_words(text_words) if is_speech else text_words
            stop = min(at + asked, num_words)
            if num_words - stop < _MIN_LAST_WORDS:
                stop = num_words
            if is_speech:
                spans.append((at, min(stop, at + self.max_words), stop - at != asked))
            at, is_speech = stop, not is_speech
        return WordSpans.of(spans)

    def _speech_words(self, text_words: int) -> int:
        """After so many words of text."""
        asked = max(_FEWEST_WORDS, int(self.config.speech_per_text * text_words))
        return min(asked, self.max_words)


@lru_cache(maxsize=4096)
def _mean_words(policy: Halves, num_words: int) -> float:
    """Spoken words of a document of so many, over draws that are always the same."""
    rng = np.random.Generator(np.random.Philox(key=num_words))
    return float(np.mean([policy._draw(num_words, rng).num_words for _ in range(_DRAWS)]))  # noqa: SLF001


@dataclass(frozen=True, slots=True)
class Fine:
    """N words of text, M spoken, in turn; where it begins is drawn."""

    name: str
    text_words: int
    speech_words: int

    @property
    def _period(self) -> int:
        return self.text_words + self.speech_words

    def is_too_short(self, num_words: int) -> bool:
        """Whether it has not one whole turn."""
        return num_words < self._period

    def choose(self, document: Document, rng: np.random.Generator) -> WordSpans:
        """The spoken parts of each turn, cut at both ends of the document."""
        num_words = len(document.words)
        first = self.text_words - int(rng.integers(self._period))
        starts = np.arange(first, num_words, self._period)
        stops = starts + self.speech_words
        keeps = stops > 0
        start, stop = np.maximum(starts[keeps], 0), np.minimum(stops[keeps], num_words)
        return WordSpans(start, stop, stop - start < self.speech_words)

    def expected_words(self, document: Document) -> float:
        """M of N + M: each word is as likely to be anywhere in its turn."""
        return len(document.words) * self.speech_words / self._period


@dataclass(frozen=True, slots=True)
class Sentences:
    """Every other sentence."""

    name: str
    max_words: int

    def is_too_short(self, num_words: int) -> bool:
        """Whether it has not two words, and so not two sentences."""
        return num_words < 2

    def choose(self, document: Document, rng: np.random.Generator) -> WordSpans:
        """The first, third, ... or the second, fourth, ..., but for those that are too long."""
        edges = _sentence_edges(document)
        first = int(rng.integers(2))
        if len(edges) <= 2:
            return NO_SPANS
        pairs = list(pairwise(edges))[first::2]
        return WordSpans.of(
            [(start, stop, False) for start, stop in pairs if stop - start <= self.max_words]
        )

    def expected_words(self, document: Document) -> float:
        """Half of the words in sentences that are not too long."""
        lengths = np.diff(_sentence_edges(document))
        return float(lengths[lengths <= self.max_words].sum()) / 2 if len(lengths) > 1 else 0.0


def _sentence_edges(document: Document) -> list[int]:
    """Words at which a sentence begins, and the number of words."""
    words, data = document.words, document.data
    edges = [0]
    starts, stops = words.start.tolist(), words.stop.tolist()
    for at in range(len(words) - 1):
        ends = _SENTENCE_END.search(data, starts[at], stops[at])
        if ends or _BREAK.search(data, stops[at], starts[at + 1]):
            edges.append(at + 1)
    return [*edges, len(words)]
