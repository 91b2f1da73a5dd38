"""A source on disk: its examples are encoded once, then measured, drawn and packed by number.

Legend: D documents, P pieces.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interloom.config.mixture import Units
from interloom.core.errors import DataError
from interloom.core.spans import Span
from interloom.mixture.alignment import Begins
from interloom.mixture.cutting import cut
from interloom.mixture.examples import Example, Ids, Mask
from interloom.mixture.packing import num_units
from interloom.mixture.rows import DOCUMENTS_PER_GROUP
from interloom.vocabulary.layout import Marker, VocabularyLayout

DOCUMENTS = pa.schema([("id", pa.string()), ("licence", pa.string()), ("tokens", pa.int32())])


@dataclass(frozen=True, slots=True)
class CutRule:
    """How documents become pieces, see ``cut``, and what these weigh in a row.

    Pieces weigh their ids; with ``units`` their units, so many of speech in one, but so much at
    least that a full row has no more than ``row_length`` ids.
    """

    row_length: int
    layout: VocabularyLayout
    refuses_unfit: bool
    keeps_whole: bool = False
    units: Units | None = None

    @property
    def room(self) -> int:
        """What a row can hold."""
        return self.row_length if self.units is None else self.units.per_row

    def whole(self) -> "CutRule":
        """The rule for pairs, whose loss hangs on all that stands before it: never cut."""
        return replace(self, keeps_whole=True)

    def pieces(self, ids_T: Ids) -> tuple[Span, ...] | None:
        """The pieces of a document; None if it fits no row."""
        if self.keeps_whole:
            return (Span(0, len(ids_T)),) if self.weight(ids_T) <= self.room else None
        begin, end = map(self.layout.marker, (Marker.AUDIO_BEGIN, Marker.AUDIO_END))
        return cut(ids_T, self.room, begin=begin, end=end)

    def num_tokens(self, ids_T: Ids) -> int:
        """Of a document, as the plain layout counts them."""
        if self.layout.units is None:
            return len(ids_T)
        return int(self.layout.num_plain(ids_T).sum())

    def weight(self, ids_T: Ids) -> int:
        """Of a piece."""
        if self.units is None:
            return len(ids_T)
        units = num_units(self.layout.is_speech(ids_T), self.units.speech_tokens)
        return max(units, -(-len(ids_T) * self.room // self.row_length))


@dataclass(frozen=True, slots=True, eq=False)
class SpooledSource:
    """One source on disk: ids, targets, and where its documents and pieces lie.

    Attributes:
        ids: The file of all tokens.
        targets: The file that says which of them are targets.
        begins: The file that says what begins with them; empty where nobody asks for it.
        documents: Parquet table ``DOCUMENTS``, a row for each.
        room: What a row can hold.
        weights_P: What each piece takes of it.
        starts_P: First token of each piece in the spool; one more at the end.
        first_piece_D: First piece of each document; one more at the end.
        lengths_D: Tokens of each document, as many as its codes where ids stand for several.
        licences_D: Licence of each document, an index into ``licence_names``.
        licence_names: SPDX tags, in the order of their first document.
        left_out: Ids of documents that fit no row.
    """

    ids: Path
    targets: Path
    begins: Path
    documents: Path
    room: int
    weights_P: NDArray[np.int64]
    starts_P: NDArray[np.int64]
    first_piece_D: NDArray[np.int64]
    lengths_D: NDArray[np.int64]
    licences_D: NDArray[np.int16]
    licence_names: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of one pass."""
        return int(self.lengths_D.sum())

    def licence_tokens(self) -> dict[str, int]:
        """Tokens of one pass by licence."""
        sums = np.bincount(self.licences_D, self.lengths_D, len(self.licence_names))
        return {name: int(n) for name, n in zip(self.licence_names, sums, strict=True)}

    def tokens(self) -> Ids:
        """All tokens, memory-mapped."""
        return _map(self.ids, "<i4")

    def is_target(self) -> Mask:
        """Which of them are targets, memory-mapped."""
        return _map(self.targets, "?")

    def what_begins(self) -> Begins | None:
        """What begins with them, memory-mapped."""
        return _map(self.begins, "|u1") if self.begins.stat().st_size else None


@dataclass(frozen=True, slots=True)
class _Files:
    """What is open while a source is read."""

    ids: BinaryIO
    targets: BinaryIO
    begins: BinaryIO


@dataclass(slots=True)
class _Spool:
    """Grows while a source is read."""

    lengths: "array[int]" = field(default_factory=lambda: array("q"))
    piece_lengths: "array[int]" = field(default_factory=lambda: array("q"))
    weights: "array[int]" = field(default_factory=lambda: array("q"))
    pieces: "array[int]" = field(default_factory=lambda: array("q"))
    licences: "array[int]" = field(default_factory=lambda: array("h"))
    licence_numbers: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, example: Example, rule: CutRule, files: "_Files") -> bool:
        """Take an example; says whether it has a token and fits a row."""
        spans = rule.pieces(example.ids_T)
        if spans is None:
            self._leave_out(example, rule)
        if not spans:
            return False
        self.lengths.append(rule.num_tokens(example.ids_T))
        self.piece_lengths.extend(span.length for span in spans)
        parts = (example.ids_T[span.start : span.stop] for span in spans)
        self.weights.extend(map(rule.weight, parts))
        self.pieces.append(len(spans))
        number = self.licence_numbers.setdefault(example.licence, len(self.licence_numbers))
        self.licences.append(number)
        files.ids.write(np.ascontiguousarray(example.ids_T, "<i4").tobytes())
        files.targets.write(np.ascontiguousarray(example.is_target_T, "?").tobytes())
        if example.begins_T is not None:
            files.begins.write(example.begins_T.tobytes())
        return True

    def _leave_out(self, example: Example, rule: CutRule) -> None:
        if rule.refuses_unfit:
            raise DataError(
                f"example {example.id!r} has {len(example.ids_T)} tokens, a row holds "
                f"{rule.row_length}, and neither speech nor a pair is cut; raise row_length, or "
                "set unfit to 'leave_out'"
            )
        self.left_out.append(example.id)


def spool(name: str, examples: Iterable[Example], rule: CutRule, folder: Path) -> SpooledSource:
    """Write a source to ``folder`` and measure it.

    Raises:
        DataError: An example fits no row and the rule refuses that.
    """
    held = _Spool()
    ids, targets, begins, documents = (
        folder / f"{name}.{end}" for end in ("ids", "targets", "begins", "parquet")
    )
    with ids.open("wb") as one, targets.open("wb") as two, begins.open("wb") as three:
        files = _Files(one, two, three)
        _write_documents(documents, (it for it in examples if held.add(it, rule, files)))
    return SpooledSource(
        ids,
        targets,
        begins,
        documents,
        rule.room,
        np.array(held.weights, np.int64),
        _bounds(held.piece_lengths),
        _bounds(held.pieces),
        np.array(held.lengths, np.int64),
        np.array(held.licences, np.int16),
        tuple(held.licence_numbers),
        tuple(held.left_out),
    )


def first_examples(examples: Iterable[Example], num_tokens: int) -> Iterator[Example]:
    """Examples until they hold ``num_tokens``."""
    held = 0
    for example in examples:
        if held >= num_tokens:
            return
        held += len(example.ids_T)
        yield example


def _write_documents(path: Path, examples: Iterable[Example]) -> None:
    """The table of all documents, a row group at a time."""
    iterator = iter(examples)
    with pq.ParquetWriter(path, DOCUMENTS, compression="zstd") as file:
        while held := [
            (one.id, one.licence, len(one.ids_T)) for one in islice(iterator, DOCUMENTS_PER_GROUP)
        ]:
            columns = [pa.array(column) for column in zip(*held, strict=True)]
            file.write_table(pa.Table.from_arrays(columns, schema=DOCUMENTS))


def _bounds(lengths: "array[int]") -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(lengths, np.int64))])


def _map(path: Path, dtype: str) -> NDArray[Any]:
    """Memory-map a file, which may be empty."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
