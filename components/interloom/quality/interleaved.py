"""The alignment suite of interleaved rows: each way in which text and speech can come apart.

Rows are summarised into columns of counts, over all spans of all rows at once; a gate judges the
columns. R = rows, A = spans, N = those that are spoken, I = ids in all rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interloom.config.text_to_token import SynthesisConfig
from interloom.core.errors import DataError
from interloom.ports.gate import Expectation
from interloom.quality.flat import Counts, FlatRows, Marks, Spans
from interloom.text.bpe import TextTokenizer
from interloom.text.normalise import normalise
from interloom.text.speakable import speakable
from interloom.text.words import find_words, word_equivalents
from interloom.vocabulary.layout import Marker, VocabularyLayout

SUITE = "interleaved rows"
IDENTITY_SUITE = "interleaved rows' origin"

Summary = dict[str, list[float]]

_ALIKE_CODES, _ALIKE_WORDS = 16, 4  # shorter spans may sound alike by chance

EXPECTATIONS = (
    Expectation("spans lie within their document", "out_of_bounds", maximum=0),
    Expectation("spans are in order and disjoint", "out_of_order", maximum=0),
    Expectation("no two spans touch", "touching", maximum=0),
    Expectation("words and bytes of a span are the same place", "misplaced", maximum=0),
    Expectation("each span holds as many codes as it says", "miscounted", maximum=0),
    Expectation("each span stands between its markers", "unmarked", maximum=0),
    Expectation("speech stands in spans only, and text outside them", "misplaced_ids", maximum=0),
    Expectation("the text is rebuilt byte for byte", "text_differs", maximum=0),
    Expectation("no span is too long for its words", "codes_over", maximum=0),
    Expectation("no span is too short for its words", "codes_under", maximum=0),
    Expectation("no span repeats itself", "loops", maximum=0),
    Expectation("a span's id tells its document and words", "misnamed", maximum=0),
    Expectation("no span is there twice", "repeated", maximum=0),
    Expectation("no span has the codes of other words", "copied", maximum=0),
    Expectation("a refused span is all text and says why", "mistold", maximum=0),
    Expectation("as many words are chosen as the policy says", "off_target", maximum=0),
    Expectation("at most the last drawn span is cut", "cut_spans", maximum=1),
    Expectation("something is spoken", "spoken_spans", minimum=1),
    Expectation("source and licence are named", "unnamed", maximum=0),
)
IDENTITIES = (
    Expectation("ids are of the vocabulary", "foreign_ids", maximum=0),
    Expectation("codes are of the asked tokenizer", "foreign_tokenizer", maximum=0),
    Expectation("codes are by the asked maker, policy and seed", "foreign_maker", maximum=0),
)


@dataclass(frozen=True, slots=True)
class Target:
    """How many words a policy chooses, for the check of each row.

    Attributes:
        ratio: Of a document's words; None if it depends on more than their number.
        slack: The count is less than this from the ratio's.
        has_one_cut: Whether only the span drawn last may be cut.
    """

    ratio: float | None
    slack: float = 1.0
    has_one_cut: bool = True


@dataclass(frozen=True, slots=True)
class AlignmentCheck:
    """What rows are measured against.

    Attributes:
        text_tokenizer: Decodes the written parts.
        layout: The joint vocabulary.
        limits: Codes a word may take, and what is a loop.
        target: Words that the policy chooses.
        origin: The values that provenance columns must have.
    """

    text_tokenizer: TextTokenizer
    layout: VocabularyLayout
    limits: SynthesisConfig
    target: Target
    origin: Mapping[str, str | int]

    def summarise(self, table: pa.Table) -> Summary:
        """One number a row in each column that the expectations name, shape (R,)."""
        rows = FlatRows(table)
        columns: dict[str, NDArray[Any]] = {
            **self._places(rows),
            **self._ids(rows),
            **self._lengths(rows),
            **_names(rows),
            **self._origins(rows),
            "text_differs": self._text_differs(rows),
        }
        return {name: column.astype(float).tolist() for name, column in columns.items()}

    def _places(self, rows: FlatRows) -> dict[str, Counts]:
        """Columns about where spans are."""
        spans, spoken = rows.all_spans, rows.spoken
        words_R = np.array(rows.table["num_words"].to_pylist(), np.int64)
        least = np.minimum(
            _least_gap(spans, "word", "byte"), _spread(rows, _least_gap(spoken, "id"))
        )
        bad = _outside(spans, "word", words_R) | _outside(spans, "byte", rows.num_bytes)
        chosen = np.bincount(
            spans.row, spans["word_stop"] - spans["word_start"], minlength=rows.num_rows
        )
        off = np.zeros(rows.num_rows, bool)
        if self.target.ratio is not None:
            off = np.abs(chosen - self.target.ratio * words_R) >= self.target.slack
        cut = spans.per_row(spans["cut"] > 0)
        return {
            "out_of_bounds": spans.per_row(bad)
            + spoken.per_row(_outside(spoken, "id", rows.num_ids)),
            "out_of_order": spans.per_row(least < 0),
            "touching": spans.per_row(least == 0),
            "misplaced": _misplaced(rows, words_R),
            "off_target": off,
            "cut_spans": cut if self.target.has_one_cut else np.zeros_like(cut),
            "spoken_spans": spoken.per_row(np.ones(len(spoken), bool)),
        }

    def _ids(self, rows: FlatRows) -> dict[str, Counts]:
        """Columns about single ids."""
        layout, ids, spans = self.layout, rows.ids, rows.spoken
        begin, end = layout.marker(Marker.AUDIO_BEGIN), layout.marker(Marker.AUDIO_END)
        first, last = rows.id_at("id_start", 0), rows.id_at("id_stop", -1)
        is_marker = (ids == begin) | (ids == end)
        is_text = layout.is_text(ids)
        wrong = np.where(rows.inside, is_text, ~is_text & ~is_marker & (ids < layout.size))
        strays = rows.ids_per_row(is_marker) - 2 * spans.per_row(np.ones(len(spans), bool))
        return {
            "foreign_ids": rows.ids_per_row((ids < 0) | (ids >= layout.size)),
            "misplaced_ids": rows.ids_per_row(wrong),
            "unmarked": spans.per_row((first != begin) | (last != end)) + np.abs(strays),
        }

    def _lengths(self, rows: FlatRows) -> dict[str, Counts]:
        """Columns about the codes of a span."""
        spans, limits, said = rows.spoken, self.limits, rows.said()
        words_N = np.array([word_equivalents(speakable(text)) for text in said])
        codes = spans["num_codes"]
        most = limits.max_tokens_per_word * words_N + limits.slack_tokens
        least = limits.min_tokens_per_word * words_N - limits.slack_tokens
        return {
            "codes_over": spans.per_row((codes > most) | (codes > limits.max_tokens)),
            "codes_under": spans.per_row(codes < np.maximum(least, 1)),
            "miscounted": spans.per_row(codes != spans["id_stop"] - spans["id_start"] - 2),
            "loops": spans.per_row(_loops(rows, limits.loop_tokens, limits.loop_period)),
            "copied": spans.per_row(_copied(rows, said)),
        }

    def _origins(self, rows: FlatRows) -> dict[str, Counts]:
        """Columns about how a row came about."""
        differs = {
            name: np.array([one != asked for one in rows.table[name].to_pylist()], bool)
            for name, asked in self.origin.items()
        }
        none = np.zeros(rows.num_rows, bool)
        others = [column for name, column in differs.items() if name != "tokenizer"]
        return {
            "foreign_tokenizer": differs.get("tokenizer", none),
            "foreign_maker": np.logical_or.reduce([none, *others]),
            "unnamed": np.array(
                [
                    not (source and licence)
                    for source, licence in zip(
                        rows.table["source"].to_pylist(),
                        rows.table["licence"].to_pylist(),
                        strict=True,
                    )
                ],
                bool,
            ),
        }

    def _text_differs(self, rows: FlatRows) -> Marks:
        """Rows whose text comes back otherwise than it was."""
        spans = rows.spoken
        edges = np.searchsorted(spans.row, np.arange(rows.num_rows + 1)).tolist()
        fields = [
            spans[name].tolist() for name in ("id_start", "id_stop", "byte_start", "byte_stop")
        ]
        ids = rows.ids.tolist()
        bad = np.zeros(rows.num_rows, bool)
        for at, text in enumerate(rows.texts):
            own = ids[int(rows.first_id[at]) : int(rows.first_id[at + 1])]
            places = zip(*(field[edges[at] : edges[at + 1]] for field in fields), strict=True)
            bad[at] = self._rebuilt(own, text, list(places)) != text
        return bad

    def _rebuilt(self, ids: list[int], text: bytes, spans: list[tuple[int, ...]]) -> bytes | None:
        """Written parts from the ids, spoken ones from the text; None if an id is no text."""
        parts, at = [], 0
        try:
            for id_start, id_stop, byte_start, byte_stop in spans:
                parts.append(self.text_tokenizer.decode_bytes(ids[at:id_start]))
                parts.append(text[byte_start:byte_stop])
                at = id_stop
            parts.append(self.text_tokenizer.decode_bytes(ids[at:]))
        except (DataError, OverflowError):  # ids that no tokenizer can hold
            return None
        return b"".join(parts)


def _outside(spans: Spans, unit: str, limit_R: Counts) -> Marks:
    """Spans that are empty or reach out of their row."""
    start, stop = spans[f"{unit}_start"], spans[f"{unit}_stop"]
    return np.asarray((start < 0) | (stop <= start) | (stop > limit_R[spans.row]))


def _least_gap(spans: Spans, *units: str) -> Counts:
    """The smallest of the gaps before each span."""
    least: Counts = np.stack([spans.gap(unit) for unit in units]).min(axis=0)
    return least


def _spread(rows: FlatRows, gap_N: Counts) -> Counts:
    """Gaps of spoken spans among those of all spans; 1 where a span is not spoken."""
    gap = np.ones(len(rows.all_spans), np.int64)
    gap[rows.is_spoken] = gap_N
    return gap


def _misplaced(rows: FlatRows, words_R: Counts) -> Counts:
    """Spans whose bytes are not those of their words; and rows that count their words wrongly."""
    spans = rows.all_spans
    edges = np.searchsorted(spans.row, np.arange(rows.num_rows + 1))
    bad = np.zeros(rows.num_rows, np.int64)
    for at, text in enumerate(rows.table["text"].to_pylist()):
        own = slice(int(edges[at]), int(edges[at + 1]))
        ends = np.concatenate([[0], find_words(text).stop])
        last = len(ends) - 1
        start, stop = (np.clip(spans[f"word_{end}"][own], 0, last) for end in ("start", "stop"))
        wrong = (ends[start] != spans["byte_start"][own]) | (ends[stop] != spans["byte_stop"][own])
        bad[at] = int(wrong.sum()) + int(words_R[at] != last)
    return bad


def _names(rows: FlatRows) -> dict[str, Counts]:
    """Columns about the ids of spans and what became of them."""
    spans, documents = rows.all_spans, rows.table["id"].to_pylist()
    words = zip(spans.row.tolist(), spans["word_start"], spans["word_stop"], strict=True)
    names = [f"{documents[row]}/{start}-{stop}" for row, start, stop in words]
    misnamed = np.array([a != b for a, b in zip(names, rows.span_ids, strict=True)], bool)
    seen = Counter(zip(spans.row.tolist(), rows.span_ids, strict=True))
    twice = np.array(
        [seen[row, name] > 1 for row, name in zip(spans.row.tolist(), rows.span_ids, strict=True)],
        bool,
    )
    has_ids = (spans["id_start"] != 0) | (spans["id_stop"] != 0) | (spans["num_codes"] != 0)
    has_reason = np.array([bool(outcome) for outcome in rows.outcomes], bool)
    mistold = (~rows.is_spoken & has_ids) | ~has_reason
    return {
        "misnamed": spans.per_row(misnamed),
        "repeated": spans.per_row(twice),
        "mistold": spans.per_row(mistold),
    }


def _loops(rows: FlatRows, run: int, period: int) -> Marks:
    """Spoken spans in which ``run`` codes in a row repeat a cycle of at most ``period``, (N,)."""
    start, stop = rows.bounds
    found = np.zeros(len(start), bool)
    for lag in range(1, period + 1):
        same = np.zeros(len(rows.ids) + 1, bool)
        same[lag:-1] = rows.ids[lag:] == rows.ids[:-lag]
        same[:-1] &= rows.inside
        edges = np.flatnonzero(~same)
        lengths = np.diff(np.concatenate([[-1], edges])) - 1  # of each run that ends at an edge
        ends = edges[lengths + lag >= run]
        reach = np.searchsorted(ends, start + run)  # the first long run that ends in the span
        inside = reach < len(ends)
        inside[inside] = ends[reach[inside]] <= stop[inside]
        found |= inside
    return found


def _copied(rows: FlatRows, said: list[str]) -> Marks:
    """Spoken spans that have the same codes as a span of other words, (N,)."""
    start, stop = rows.bounds
    alike: dict[bytes, list[int]] = {}
    for at, (first, last) in enumerate(zip(start.tolist(), stop.tolist(), strict=True)):
        if last - first >= _ALIKE_CODES and len(said[at].split()) >= _ALIKE_WORDS:
            alike.setdefault(rows.ids[first:last].tobytes(), []).append(at)
    copied = np.zeros(len(start), bool)
    for places in alike.values():
        if len(places) > 1 and _are_others([normalise(said[at]).split() for at in places]):
            copied[places] = True
    return copied


def _are_others(texts: Sequence[Sequence[str]]) -> bool:
    """Whether texts are different; a last word that was swallowed does not make another text."""
    head = 3 * min(map(len, texts)) // 4
    return len({tuple(text[:head]) for text in texts}) > 1
