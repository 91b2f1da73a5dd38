"""All spans and ids of a table of interleaved rows, in flat arrays.

R = rows, A = spans of all rows, N = those of them that are spoken, I = ids of all rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interloom.corpora.interleaved import SPOKEN

Counts = NDArray[np.int64]
Marks = NDArray[np.bool_]

_FIELDS = (
    *("word_start", "word_stop", "byte_start", "byte_stop"),
    *("id_start", "id_stop", "num_codes", "attempts"),
)


@dataclass(frozen=True)
class Spans:
    """Some spans of a table.

    Attributes:
        row: Row of each, shape (N,).
        place: Its place among the spans of its row.
        fields: Its numbers, (N,) each.
        num_rows: R.
    """

    row: Counts
    place: Counts
    fields: Mapping[str, Counts]
    num_rows: int

    def __getitem__(self, name: str) -> Counts:
        return self.fields[name]

    def __len__(self) -> int:
        return len(self.row)

    def per_row(self, is_bad_N: Marks) -> Counts:
        """How many spans of each row are marked, (R,)."""
        return np.bincount(self.row[is_bad_N], minlength=self.num_rows)

    def gap(self, unit: str) -> Counts:
        """From the end of the span before, in the same row, to this one; 1 for the first."""
        gap = np.ones(len(self), np.int64)
        if len(self) > 1:
            same = self.row[1:] == self.row[:-1]
            gap[1:] = np.where(same, self[f"{unit}_start"][1:] - self[f"{unit}_stop"][:-1], 1)
        return gap

    def where(self, is_kept: Marks) -> "Spans":
        """Those that are marked."""
        fields = {name: column[is_kept] for name, column in self.fields.items()}
        return Spans(self.row[is_kept], self.place[is_kept], fields, self.num_rows)


@dataclass(frozen=True)
class FlatRows:
    """A table of interleaved rows, laid out flat.

    Attributes:
        table: Of schema ``INTERLEAVED``.
    """

    table: pa.Table

    @property
    def num_rows(self) -> int:
        """R."""
        return int(self.table.num_rows)

    @cached_property
    def texts(self) -> list[bytes]:
        """The UTF-8 text of each row."""
        return [text.encode() for text in self.table["text"].to_pylist()]

    @cached_property
    def num_bytes(self) -> Counts:
        """Of each row's text, (R,)."""
        return np.fromiter(map(len, self.texts), np.int64, self.num_rows)

    @cached_property
    def ids(self) -> Counts:
        """The ids of all rows, one after another, (I,)."""
        return np.asarray(pc.list_flatten(self.table["ids"]).to_numpy(), np.int64)

    @cached_property
    def num_ids(self) -> Counts:
        """Ids of each row, (R,)."""
        return np.asarray(pc.list_value_length(self.table["ids"]).to_numpy(), np.int64)

    @cached_property
    def first_id(self) -> Counts:
        """Where each row's ids begin, and the end, (R + 1,)."""
        return np.concatenate([[0], np.cumsum(self.num_ids)])

    @cached_property
    def id_row(self) -> Counts:
        """Row of each id, (I,)."""
        return np.repeat(np.arange(self.num_rows), self.num_ids)

    @cached_property
    def _struct(self) -> pa.StructArray:
        flat = pc.list_flatten(self.table["spans"])
        return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat

    @cached_property
    def all_spans(self) -> Spans:
        """Spoken or not, in order of row, then of the row's list."""
        per_row = np.asarray(pc.list_value_length(self.table["spans"]).to_numpy(), np.int64)
        row = np.repeat(np.arange(self.num_rows), per_row)
        place = np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
        fields = {name: np.asarray(self._struct.field(name), np.int64) for name in _FIELDS}
        fields["cut"] = np.asarray(pc.cast(self._struct.field("cut"), pa.int64()), np.int64)
        return Spans(row, place, fields, self.num_rows)

    @cached_property
    def is_spoken(self) -> Marks:
        """Which of all spans are, (A,)."""
        return np.array([outcome == SPOKEN for outcome in self.outcomes], bool)

    @cached_property
    def outcomes(self) -> list[str]:
        """Of all spans, (A,)."""
        outcomes: list[str] = self._struct.field("outcome").to_pylist()
        return outcomes

    @cached_property
    def span_ids(self) -> list[str]:
        """Of all spans, (A,)."""
        names: list[str] = self._struct.field("span_id").to_pylist()
        return names

    @cached_property
    def spoken(self) -> Spans:
        """Those that are spoken, (N,)."""
        return self.all_spans.where(self.is_spoken)

    def ids_per_row(self, is_bad_I: Marks) -> Counts:
        """How many ids of each row are marked, (R,)."""
        return np.bincount(self.id_row[is_bad_I], minlength=self.num_rows)

    @cached_property
    def bounds(self) -> tuple[Counts, Counts]:
        """Where the codes of each spoken span begin and end in ``ids``; cut to fit its row."""
        spans = self.spoken
        low, high = self.first_id[spans.row], self.first_id[spans.row + 1]
        start = np.clip(low + spans["id_start"] + 1, low, high)
        stop = np.clip(low + spans["id_stop"] - 1, start, np.maximum(start, high))
        return start, stop

    @cached_property
    def inside(self) -> Marks:
        """Which ids stand between the markers of a span, (I,)."""
        steps = np.zeros(len(self.ids) + 1, np.int64)
        start, stop = self.bounds
        np.add.at(steps, start, 1)
        np.add.at(steps, stop, -1)
        return np.asarray(np.cumsum(steps)[:-1] > 0)

    def id_at(self, name: str, shift: int) -> Counts:
        """The id at an offset of each spoken span, (N,); -1 where that is outside its row."""
        spans = self.spoken
        place = spans[name] + shift
        is_there = (place >= 0) & (place < self.num_ids[spans.row])
        found = np.full(len(place), -1, np.int64)
        found[is_there] = self.ids[(self.first_id[spans.row] + place)[is_there]]
        return found

    def said(self) -> list[str]:
        """The text of each spoken span; wrong offsets give what text there is."""
        spans = self.spoken
        places = zip(spans.row.tolist(), spans["byte_start"], spans["byte_stop"], strict=True)
        return [
            self.texts[row][max(0, int(start)) : max(0, int(stop))].decode(errors="replace")
            for row, start, stop in places
        ]
