"""Put the codes of spoken spans in the place of their words.

A span takes the space before its first word with it, as a word of byte-level BPE does: the text
before it ends with a letter, the text after it begins with a space, and nothing is lost.

All documents of a shard are woven at once, in arrays. D = documents, N = spans of all documents,
S = stretches of text and speech, I = ids of all documents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interloom.corpora.interleaved import SPOKEN
from interloom.corpora.tables import INTERLEAVED, SPOKEN_SPAN
from interloom.interleaving.policies import Document, Policy
from interloom.interleaving.sampling import Counts, WordSpans, document_stream
from interloom.text.bpe import TextTokenizer
from interloom.text.words import find_words
from interloom.text_to_token.spans import SpanRequest, SpanResult
from interloom.vocabulary.layout import Marker, VocabularyLayout

Row = Mapping[str, Any]
Ids = NDArray[np.int32]

_KEPT = ("id", "split", "source", "licence", "text")


@dataclass(frozen=True, slots=True)
class Provenance:
    """How the codes of a row came about; every row has it.

    Attributes:
        policy: Which words were chosen.
        made_by: The text-to-token model, or the recordings' tokens: kind and id.
        tokenizer: Id of the speech tokenizer whose codes they are.
        seed: Of spans and voices.
        precision: Of synthesis.
        engine: What decoded.
    """

    policy: str
    made_by: str
    tokenizer: str
    seed: int
    precision: str
    engine: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A document and the spans of it that are to be spoken.

    Attributes:
        document: A row of a text corpus.
        data: Its text in UTF-8.
        words: The spans in words.
        byte_start: In bytes: from the end of the word before, (N,).
        byte_stop: To the end of the last word.
        num_words: Of the document.
        expected_words: How many its policy chooses on average.
    """

    document: Row
    data: bytes
    words: WordSpans
    byte_start: Counts
    byte_stop: Counts
    num_words: int
    expected_words: float

    @property
    def span_ids(self) -> list[str]:
        """``DOCUMENT/START-STOP`` in words: enough to speak a span again, alone."""
        name = self.document["id"]
        pairs = zip(self.words.start.tolist(), self.words.stop.tolist(), strict=True)
        return [f"{name}/{start}-{stop}" for start, stop in pairs]

    def requests(self) -> list[SpanRequest]:
        """What synthesis is asked: the text of each span, without the spaces around it."""
        bounds = zip(self.byte_start.tolist(), self.byte_stop.tolist(), strict=True)
        texts = [self.data[start:stop].decode().strip() for start, stop in bounds]
        return [SpanRequest(name, text) for name, text in zip(self.span_ids, texts, strict=True)]


def plan_document(document: Row, policy: Policy, *, seed: int) -> Plan:
    """Choose the spans of a document, from its id and the seed alone."""
    words, data = find_words(document["text"]), document["text"].encode()
    seen = Document(words, data)
    spans = policy.choose(seen, document_stream(seed, document["id"]))
    ends = np.concatenate([[0], words.stop])
    return Plan(
        document,
        data,
        spans,
        ends[spans.start],
        ends[spans.stop],
        len(words),
        policy.expected_words(seen),
    )


class Weaver:
    """Makes rows of joint ids."""

    def __init__(
        self, text_tokenizer: TextTokenizer, layout: VocabularyLayout, provenance: Provenance
    ) -> None:
        self._text_tokenizer = text_tokenizer
        self._layout = layout
        self._provenance = provenance

    def weave(self, plans: Sequence[Plan], results: Sequence[Sequence[SpanResult]]) -> pa.Table:
        """One row of table ``INTERLEAVED`` a plan.

        Args:
            plans: Documents with their spans.
            results: Of each plan, one result a span; refused spans stay text.

        Raises:
            DataError: A code is not of the codebook.
        """
        flat = list(chain.from_iterable(results))
        is_spoken = np.fromiter((one.accepted for one in flat), bool, len(flat))
        num_codes = np.fromiter((len(one.codes) for one in flat), np.int64, len(flat))
        num_codes[~is_spoken] = 0
        woven = self._ids(plans, results, flat, num_codes[is_spoken])
        place = np.zeros((2, len(flat)), np.int64)
        place[:, is_spoken] = woven.place
        spans = _span_columns(plans, flat, num_codes, place)
        return self._table(plans, woven, spans)

    def _ids(
        self,
        plans: Sequence[Plan],
        results: Sequence[Sequence[SpanResult]],
        flat: Sequence[SpanResult],
        num_codes: Counts,
    ) -> "_Woven":
        """Text, span, text, span, ..., text: of every document."""
        written = [_written(plan, some) for plan, some in zip(plans, results, strict=True)]
        text_ids, num_text = self._text_tokenizer.encode_flat(list(chain.from_iterable(written)))
        parts_D = np.fromiter(map(len, written), np.int64, len(written))
        is_text_S = _alternating(parts_D)
        size_S = np.empty(len(is_text_S), np.int64)
        size_S[is_text_S], size_S[~is_text_S] = num_text, num_codes + 2
        stop_S = np.cumsum(size_S)
        stop, start = stop_S[~is_text_S], (stop_S - size_S)[~is_text_S]
        ids = np.empty(int(size_S.sum()), np.int32)
        is_text = np.repeat(is_text_S, size_S)
        ids[is_text] = text_ids
        is_code = ~is_text
        is_code[start] = is_code[stop - 1] = False
        codes = [one.codes for one in flat if one.accepted]
        ids[is_code] = self._layout.speech_ids(np.concatenate([np.zeros(0, np.int32), *codes]))
        ids[start] = self._layout.marker(Marker.AUDIO_BEGIN)
        ids[stop - 1] = self._layout.marker(Marker.AUDIO_END)
        stop_D = np.concatenate([[0], stop_S[np.cumsum(2 * parts_D - 1) - 1]])
        first = np.repeat(stop_D[:-1], parts_D - 1)
        return _Woven(ids, stop_D, np.stack([start - first, stop - first]))

    def _table(self, plans: Sequence[Plan], woven: "_Woven", spans: Mapping[str, Any]) -> pa.Table:
        """The columns of all rows."""
        num = len(plans)
        per_plan = np.fromiter((len(plan.words) for plan in plans), np.int64, num)
        edges = np.concatenate([[0], np.cumsum(per_plan)])
        made, fields = self._provenance, SPOKEN_SPAN
        columns: dict[str, Any] = {name: [plan.document[name] for plan in plans] for name in _KEPT}
        columns |= {
            name: pa.repeat(pa.scalar(getattr(made, name), INTERLEAVED.field(name).type), num)
            for name in ("policy", "made_by", "tokenizer", "seed", "precision", "engine")
        }
        columns["num_words"] = np.fromiter((plan.num_words for plan in plans), np.int32, num)
        columns["ids"] = pa.ListArray.from_arrays(_offsets(woven.edges), pa.array(woven.ids))
        struct = pa.StructArray.from_arrays(
            [pa.array(spans[one.name], one.type) for one in fields], fields=list(fields)
        )
        columns["spans"] = pa.ListArray.from_arrays(_offsets(edges), struct)
        return pa.table({name: columns[name] for name in INTERLEAVED.names}, schema=INTERLEAVED)


@dataclass(frozen=True, slots=True)
class _Woven:
    """Ids of all documents, (I,); where each begins, (D + 1,); spoken spans in theirs, (2, N)."""

    ids: Ids
    edges: Counts
    place: Counts


def _alternating(parts_D: Counts) -> NDArray[np.bool_]:
    """Which stretches are text, (S,): in each document the first and every other one."""
    size_D = 2 * parts_D - 1
    first = np.repeat(np.cumsum(size_D) - size_D, size_D)
    is_text: NDArray[np.bool_] = (np.arange(int(size_D.sum())) - first) % 2 == 0
    return is_text


def _offsets(edges: Counts) -> pa.Array:
    return pa.array(edges, pa.int32())


def _written(plan: Plan, results: Sequence[SpanResult]) -> list[str]:
    """The stretches of text before, between and after the spans that are spoken."""
    data = plan.data
    starts, stops = plan.byte_start.tolist(), plan.byte_stop.tolist()
    at, texts = 0, list[str]()
    for start, stop, result in zip(starts, stops, results, strict=True):
        if result.accepted:
            texts.append(data[at:start].decode())
            at = stop
    texts.append(data[at:].decode())
    return texts


def _span_columns(
    plans: Sequence[Plan], flat: Sequence[SpanResult], num_codes: Counts, place: Counts
) -> dict[str, Any]:
    """The fields of all spans, (N,) each."""
    none = np.zeros(0, np.int64)

    def joined(columns: Sequence[NDArray[Any]]) -> Counts:
        return np.concatenate([none, *columns])

    return {
        "span_id": [one.span_id for one in flat],
        "word_start": joined([plan.words.start for plan in plans]),
        "word_stop": joined([plan.words.stop for plan in plans]),
        "byte_start": joined([plan.byte_start for plan in plans]),
        "byte_stop": joined([plan.byte_stop for plan in plans]),
        "id_start": place[0],
        "id_stop": place[1],
        "num_codes": num_codes,
        "cut": joined([plan.words.is_cut for plan in plans]).astype(bool),
        "outcome": [SPOKEN if one.accepted else one.reason for one in flat],
        "attempts": [one.attempts for one in flat],
    }
