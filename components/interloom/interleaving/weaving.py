"""Put the codes of spoken spans in the place of their words.

A span takes the space before its first word with it, as a word of byte-level BPE does: the text
before it ends with a letter, the text after it begins with a space, and nothing is lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interloom.corpora.interleaved import SPOKEN
from interloom.interleaving.sampling import SpanRule, WordSpan, choose_spans, document_stream
from interloom.text.bpe import TextTokenizer
from interloom.text.words import Words, find_words
from interloom.text_to_token.spans import SpanRequest, SpanResult
from interloom.vocabulary.layout import VocabularyLayout

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlannedSpan:
    """A span of a document, in words and in bytes of its UTF-8 text."""

    words: WordSpan
    byte_start: int
    byte_stop: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A document and the spans of it that are to be spoken.

    Attributes:
        document: A row of a text corpus.
        spans: In order; none if it is too short.
    """

    document: Row
    spans: tuple[PlannedSpan, ...]

    @property
    def span_ids(self) -> tuple[str, ...]:
        """``DOCUMENT/START-STOP`` in words: enough to speak a span again, alone."""
        return tuple(
            f"{self.document['id']}/{span.words.start}-{span.words.stop}" for span in self.spans
        )

    def requests(self) -> list[SpanRequest]:
        """What synthesis is asked: the text of each span, without the spaces around it."""
        data = self.document["text"].encode()
        texts = [data[span.byte_start : span.byte_stop].decode().strip() for span in self.spans]
        return [
            SpanRequest(span_id, text) for span_id, text in zip(self.span_ids, texts, strict=True)
        ]


def plan_document(document: Row, rule: SpanRule, *, seed: int) -> Plan:
    """Choose the spans of a document, from its id and the seed alone."""
    words = find_words(document["text"])
    chosen = choose_spans(len(words), rule, document_stream(seed, document["id"]))
    return Plan(document, tuple(_in_bytes(words, span) for span in chosen))


def _in_bytes(words: Words, span: WordSpan) -> PlannedSpan:
    """From the end of the word before to the end of the last word."""
    start = int(words.stop[span.start - 1]) if span.start else 0
    return PlannedSpan(span, start, int(words.stop[span.stop - 1]))


class Weaver:
    """Makes rows of joint ids."""

    def __init__(self, text_tokenizer: TextTokenizer, layout: VocabularyLayout) -> None:
        self._text_tokenizer = text_tokenizer
        self._layout = layout

    def weave(
        self, plans: Sequence[Plan], results: Sequence[Sequence[SpanResult]]
    ) -> list[dict[str, Any]]:
        """One row of table ``INTERLEAVED`` a plan.

        Args:
            plans: Documents with their spans.
            results: Of each plan, one result a span; refused spans stay text.
        """
        written = [_written(plan, spoken) for plan, spoken in zip(plans, results, strict=True)]
        encoded = iter(self._text_tokenizer.encode_batch([text for one in written for text in one]))
        return [
            self._row(plan, spoken, [next(encoded) for _ in texts])
            for plan, spoken, texts in zip(plans, results, written, strict=True)
        ]

    def _row(
        self, plan: Plan, results: Sequence[SpanResult], texts: Sequence[Sequence[int]]
    ) -> dict[str, Any]:
        """Text, span, text, span, ..., text."""
        parts = [np.array(texts[0], np.int32)]
        at, spans = len(texts[0]), []
        following = iter(texts[1:])
        for planned, result in zip(plan.spans, results, strict=True):
            place = (0, 0)
            if result.accepted:
                spoken = self._layout.wrap_audio(result.codes)
                place = (at, at + len(spoken))
                parts += [spoken, np.array(next(following), np.int32)]
                at += len(parts[-1]) + len(spoken)
            spans.append(_span(planned, result, place))
        document = plan.document
        kept = {name: document[name] for name in ("id", "split", "source", "licence", "text")}
        return kept | {"ids": np.concatenate(parts).tolist(), "spans": spans}


def _written(plan: Plan, results: Sequence[SpanResult]) -> list[str]:
    """The stretches of text before, between and after the spans that are spoken."""
    data = plan.document["text"].encode()
    at, texts = 0, []
    for span, result in zip(plan.spans, results, strict=True):
        if result.accepted:
            texts.append(data[at : span.byte_start].decode())
            at = span.byte_stop
    return [*texts, data[at:].decode()]


def _span(planned: PlannedSpan, result: SpanResult, place: tuple[int, int]) -> dict[str, Any]:
    """One entry of the row's ``spans``."""
    return {
        "span_id": result.span_id,
        "word_start": planned.words.start,
        "word_stop": planned.words.stop,
        "byte_start": planned.byte_start,
        "byte_stop": planned.byte_stop,
        "id_start": place[0],
        "id_stop": place[1],
        "num_codes": len(result.codes),
        "cut": planned.words.cut,
        "outcome": SPOKEN if result.accepted else result.reason,
        "attempts": result.attempts,
    }
