"""The alignment suite of interleaved rows: each way in which text and speech can come apart.

Rows are summarised into columns of counts, over all spans of all rows at once; a gate judges the
columns. R = rows, N = spans that are spoken in all rows, I = ids in all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.config.text_to_token import SynthesisConfig
from interloom.core.errors import DataError
from interloom.corpora.interleaved import SPOKEN, rebuild
from interloom.ports.gate import Expectation
from interloom.text.bpe import TextTokenizer
from interloom.text.words import word_equivalents
from interloom.vocabulary.layout import Marker, VocabularyLayout

SUITE = "interleaved rows"
SHARD_SUITE = "interleaved shards"

Row = Mapping[str, Any]
Summary = dict[str, list[float]]
Counts = NDArray[np.int64]

_FIELDS = ("word_start", "word_stop", "byte_start", "byte_stop", "id_start", "id_stop", "num_codes")

EXPECTATIONS = (
    Expectation("spans lie within their document", "out_of_bounds", maximum=0),
    Expectation("spans are in order and disjoint", "out_of_order", maximum=0),
    Expectation("no two spans touch", "touching", maximum=0),
    Expectation("each span holds as many codes as it says", "miscounted", maximum=0),
    Expectation("each span stands between its markers", "unmarked", maximum=0),
    Expectation("ids are of the vocabulary", "foreign_ids", maximum=0),
    Expectation("speech stands in spans only, and text outside them", "misplaced_ids", maximum=0),
    Expectation("the text is rebuilt byte for byte", "text_differs", maximum=0),
    Expectation("no span is too long for its words", "codes_over", maximum=0),
    Expectation("no span is too short for its words", "codes_under", maximum=0),
    Expectation("something is spoken", "spoken_spans", minimum=1),
)


def shard_expectations(*, tolerance: float, max_refused: float) -> tuple[Expectation, ...]:
    """What must hold of the sums over a shard."""
    return (
        Expectation(
            "the share of chosen words is as asked", "ratio_difference", -tolerance, tolerance
        ),
        Expectation("most spans could be spoken", "refused_spans", maximum=max_refused),
    )


@dataclass(frozen=True, slots=True)
class AlignmentCheck:
    """What rows are measured against.

    Attributes:
        text_tokenizer: Decodes the written parts.
        layout: The joint vocabulary.
        limits: Codes a word may take.
    """

    text_tokenizer: TextTokenizer
    layout: VocabularyLayout
    limits: SynthesisConfig

    def summarise(self, rows: Sequence[Row]) -> Summary:
        """One number a row in each column that ``EXPECTATIONS`` name, shape (R,)."""
        spans = _Spans.of(rows)
        columns: dict[str, NDArray[Any]] = {
            "out_of_bounds": spans.per_row(spans.out_of_bounds()),
            "out_of_order": spans.per_row(spans.out_of_order()),
            "touching": spans.per_row(spans.touching()),
            "miscounted": spans.per_row(
                spans["num_codes"] != spans["id_stop"] - spans["id_start"] - 2
            ),
            "spoken_spans": spans.per_row(np.ones(len(spans.row), bool)),
        }
        columns |= self._ids(spans) | self._lengths(rows, spans)
        columns["text_differs"] = np.array([self._text_differs(row) for row in rows], bool)
        return {name: column.astype(float).tolist() for name, column in columns.items()}

    def _ids(self, spans: "_Spans") -> dict[str, Counts]:
        """Columns about single ids."""
        layout, ids = self.layout, spans.ids
        begin, end = layout.marker(Marker.AUDIO_BEGIN), layout.marker(Marker.AUDIO_END)
        inside = spans.inside()
        first, last = spans.id_at("id_start", 0), spans.id_at("id_stop", -1)
        is_marker = (ids == begin) | (ids == end)
        wrong = np.where(inside, layout.is_text(ids), ~layout.is_text(ids) & ~is_marker)
        strays = spans.ids_per_row(is_marker) - 2 * spans.per_row(np.ones(len(spans.row), bool))
        unmarked = spans.per_row((first != begin) | (last != end)) + np.abs(strays)
        return {
            "foreign_ids": spans.ids_per_row((ids < 0) | (ids >= layout.size)),
            "misplaced_ids": spans.ids_per_row(wrong),
            "unmarked": unmarked,
        }

    def _lengths(self, rows: Sequence[Row], spans: "_Spans") -> dict[str, Counts]:
        """Columns about codes a word."""
        words_N = np.array(
            [
                word_equivalents(_said(row, span))
                for row in rows
                for span in row["spans"]
                if span["outcome"] == SPOKEN
            ]
        )
        slack = self.limits.slack_tokens
        most = self.limits.max_tokens_per_word * words_N + slack
        least = self.limits.min_tokens_per_word * words_N - slack
        codes = spans["num_codes"]
        return {
            "codes_over": spans.per_row((codes > most) | (codes > self.limits.max_tokens)),
            "codes_under": spans.per_row(codes < np.maximum(least, 1)),
        }

    def _text_differs(self, row: Row) -> bool:
        """Whether the row's text comes back otherwise than it was."""
        try:
            return bool(rebuild(row, self.text_tokenizer) != row["text"])
        except (DataError, OverflowError):  # ids that no tokenizer can hold
            return True


def shard_summary(rows: Sequence[Row], num_words: Sequence[int], ratio: float) -> Summary:
    """The share of words in spans, spoken or refused, against what was asked; and of refused spans.

    Rounding a document's share to whole words may add up: within two standard deviations of that
    the difference counts as none.
    """
    spans = [span for row in rows for span in row["spans"]]
    chosen = sum(span["word_stop"] - span["word_start"] for span in spans)
    refused = sum(span["outcome"] != SPOKEN for span in spans)
    total = max(1, sum(num_words))
    difference = chosen - ratio * total
    beyond = max(0.0, abs(difference) - len(rows) ** 0.5)
    return {
        "ratio_difference": [float(np.sign(difference)) * beyond / total],
        "refused_spans": [refused / max(1, len(spans))],
    }


def _said(row: Row, span: Mapping[str, Any]) -> str:
    """The text of a span; wrong offsets give what text there is."""
    data: bytes = row["text"].encode()
    return data[span["byte_start"] : span["byte_stop"]].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Spans:
    """All spoken spans of some rows, flat.

    Attributes:
        row: Row of each span, (N,).
        fields: Offsets of each span, (N,) each.
        ids: The ids of all rows, one after another, (I,).
        id_row: Row of each id, (I,).
        num_ids: Ids of each row, (R,).
        num_bytes: Bytes of each row's text, (R,).
    """

    row: Counts
    fields: Mapping[str, Counts]
    ids: Counts
    id_row: Counts
    num_ids: Counts
    num_bytes: Counts

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_Spans":
        """Lay all rows out flat."""
        spoken = [
            (at, span)
            for at, row in enumerate(rows)
            for span in row["spans"]
            if span["outcome"] == SPOKEN
        ]
        num_ids = np.array([len(row["ids"]) for row in rows], np.int64)
        return cls(
            row=np.array([at for at, _ in spoken], np.int64),
            fields={
                name: np.array([span[name] for _, span in spoken], np.int64) for name in _FIELDS
            },
            ids=np.array([one for row in rows for one in row["ids"]], np.int64),
            id_row=np.repeat(np.arange(len(rows)), num_ids),
            num_ids=num_ids,
            num_bytes=np.array([len(row["text"].encode()) for row in rows], np.int64),
        )

    def __getitem__(self, name: str) -> Counts:
        return self.fields[name]

    def per_row(self, is_bad_N: NDArray[np.bool_]) -> Counts:
        """How many spans of each row are marked, (R,)."""
        return np.bincount(self.row[is_bad_N], minlength=len(self.num_ids))

    def ids_per_row(self, is_bad_I: NDArray[np.bool_]) -> Counts:
        """How many ids of each row are marked, (R,)."""
        return np.bincount(self.id_row[is_bad_I], minlength=len(self.num_ids))

    def out_of_bounds(self) -> NDArray[np.bool_]:
        """Spans that are empty or reach out of their document."""
        bad = np.zeros(len(self.row), bool)
        limits = (("word", None), ("byte", self.num_bytes), ("id", self.num_ids))
        for unit, limit in limits:
            start, stop = self[f"{unit}_start"], self[f"{unit}_stop"]
            bad |= (start < 0) | (stop <= start)
            if limit is not None:
                bad |= stop > limit[self.row]
        return bad

    def out_of_order(self) -> NDArray[np.bool_]:
        """Spans that begin before the one before them has ended."""
        return np.less(self._least_gap(), 0)

    def touching(self) -> NDArray[np.bool_]:
        """Spans that begin where the one before them ended."""
        return np.equal(self._least_gap(), 0)

    def _least_gap(self) -> Counts:
        """The smallest of the gaps in words, bytes and ids, (N,)."""
        gaps = np.stack([self._gap(unit) for unit in ("word", "byte", "id")])
        least: Counts = gaps.min(axis=0)
        return least

    def _gap(self, unit: str) -> Counts:
        """From the end of the span before, in the same row, to this one; 1 for the first."""
        gap = np.ones(len(self.row), np.int64)
        if len(self.row) > 1:
            same = self.row[1:] == self.row[:-1]
            gap[1:] = np.where(same, self[f"{unit}_start"][1:] - self[f"{unit}_stop"][:-1], 1)
        return gap

    def inside(self) -> NDArray[np.bool_]:
        """Which ids stand between the markers of a span, (I,); wrong offsets are cut to fit."""
        first = np.concatenate([[0], np.cumsum(self.num_ids)])
        low, high = first[self.row], first[self.row + 1]
        start = np.clip(low + self["id_start"] + 1, low, high)
        stop = np.clip(low + self["id_stop"] - 1, start, np.maximum(start, high))
        steps = np.zeros(len(self.ids) + 1, np.int64)
        np.add.at(steps, start, 1)
        np.add.at(steps, stop, -1)
        return np.cumsum(steps)[:-1] > 0

    def id_at(self, name: str, shift: int) -> Counts:
        """The id at an offset of each span, (N,); -1 where that is outside its row."""
        place = self[name] + shift
        first = np.cumsum(self.num_ids) - self.num_ids
        is_there = (place >= 0) & (place < self.num_ids[self.row])
        found = np.full(len(place), -1, np.int64)
        found[is_there] = self.ids[(first[self.row] + place)[is_there]]
        return found
