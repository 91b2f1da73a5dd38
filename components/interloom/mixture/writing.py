"""From streams of examples to an artifact of packed rows, in bounded memory.

Examples are encoded once, into a spool on disk; the plan, the draws and the packing see lengths
only; rows are then written in order, each document read back from the spool.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from interloom.core.errors import DataError
from interloom.core.spans import Span
from interloom.mixture.cutting import cut
from interloom.mixture.examples import Example, Ids, Mask
from interloom.mixture.packing import pack_best_fit
from interloom.mixture.plan import Draws
from interloom.mixture.rows import INDEX, RowIndex, RowPart
from interloom.ports.store import ArtifactDraft
from interloom.vocabulary.layout import Marker, VocabularyLayout

_TOKENS_PER_SHARD = 1 << 26
_WINDOW_PIECES = 1 << 20  # packed together; windows follow each other in the order of the draws


@dataclass(frozen=True, slots=True)
class CutRule:
    """How documents become pieces: see ``cut``."""

    row_length: int
    audio_begin: int
    audio_end: int
    refuses_unfit: bool
    keeps_whole: bool = False

    def whole(self) -> "CutRule":
        """The rule for pairs, whose loss hangs on all that stands before it: never cut."""
        return replace(self, keeps_whole=True)

    def pieces(self, ids_T: Ids) -> tuple[Span, ...] | None:
        """The pieces of a document; None if it fits no row."""
        if self.keeps_whole and len(ids_T) > self.row_length:
            return None
        return cut(ids_T, self.row_length, begin=self.audio_begin, end=self.audio_end)


@dataclass(slots=True)
class SpooledSource:
    """One source on disk: ids, targets, and where its documents and pieces lie.

    Attributes:
        starts_P: First token of each piece in the spool; one more at the end.
        first_piece_D: First piece of each document; one more at the end.
        lengths_D: Tokens of each document.
        left_out: Ids of documents that fit no row.
        licences: SPDX tags, with the number of documents.
    """

    ids: Path
    targets: Path
    starts_P: NDArray[np.int64]
    first_piece_D: NDArray[np.int64]
    lengths_D: NDArray[np.int64]
    left_out: tuple[str, ...]
    licences: Counter[str]

    @property
    def num_tokens(self) -> int:
        """Tokens of one pass."""
        return int(self.lengths_D.sum())

    def tokens(self) -> Ids:
        """All tokens, memory-mapped."""
        return _map(self.ids, "<i4")

    def is_target(self) -> Mask:
        """Which of them are targets, memory-mapped."""
        return _map(self.targets, "?")


@dataclass(slots=True)
class _Spool:
    """Grows while a source is read."""

    lengths: list[int] = field(default_factory=list)
    piece_lengths: list[int] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    licences: Counter[str] = field(default_factory=Counter)

    def add(self, example: Example, rule: CutRule, ids: BinaryIO, targets: BinaryIO) -> None:
        spans = rule.pieces(example.ids_T)
        if spans is None:
            self._leave_out(example, rule)
            return
        if not spans:
            return
        self.lengths.append(len(example.ids_T))
        self.piece_lengths += [span.length for span in spans]
        self.pieces.append(len(spans))
        self.licences[example.licence] += 1
        ids.write(np.ascontiguousarray(example.ids_T, "<i4").tobytes())
        targets.write(np.ascontiguousarray(example.is_target_T, "?").tobytes())

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
    ids, targets = folder / f"{name}.ids", folder / f"{name}.targets"
    with ids.open("wb") as ids_file, targets.open("wb") as targets_file:
        for example in examples:
            held.add(example, rule, ids_file, targets_file)
    return SpooledSource(
        ids,
        targets,
        np.cumsum([0, *held.piece_lengths], dtype=np.int64),
        np.cumsum([0, *held.pieces], dtype=np.int64),
        np.array(held.lengths, np.int64),
        tuple(held.left_out),
        held.licences,
    )


def first_examples(examples: Iterable[Example], num_tokens: int) -> Iterator[Example]:
    """Examples until they hold ``num_tokens``."""
    held = 0
    for example in examples:
        if held >= num_tokens:
            return
        held += len(example.ids_T)
        yield example


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """Pieces of one window in the order of their rows."""

    rows_P: NDArray[np.int64]
    starts_P: NDArray[np.int64]
    sources_P: NDArray[np.int16]
    pieces_P: NDArray[np.int64]
    num_rows: int


@dataclass(slots=True)
class RowCounts:
    """What the rows hold.

    Attributes:
        tokens: By source.
        targets: By source.
        modalities: Tokens that are text, speech or markers.
        num_rows: Rows.
        num_positions: Places in all rows, padding included.
    """

    tokens: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0
    num_positions: int = 0

    @property
    def fill(self) -> float:
        """The part of all places that is not padding."""
        return self.tokens.total() / max(1, self.num_positions)


def write_rows(
    draft: ArtifactDraft,
    sources: Mapping[str, SpooledSource],
    draws: Draws,
    *,
    row_length: int,
    layout: VocabularyLayout,
    part: RowPart = RowPart.TRAIN,
) -> RowCounts:
    """Pack the drawn documents and write the rows and their index.

    Args:
        draft: Gets the shards.
        sources: In the order that ``draws.sources_N`` counts.
        draws: Which documents, in order.
        row_length: L.
        layout: Says which ids are text, speech and padding.
        part: Which rows of the artifact these are.
    """
    counts = RowCounts()
    pad = layout.marker(Marker.PAD)
    names = tuple(sources)
    maps = [(sources[name].tokens(), sources[name].is_target()) for name in names]
    rows_per_shard = max(1, _TOKENS_PER_SHARD // row_length)
    shard_rows: list[int] = []
    for placed in _windows(list(sources.values()), draws, row_length):
        for first in range(0, placed.num_rows, rows_per_shard):
            block = _Block(
                placed, range(first, min(first + rows_per_shard, placed.num_rows)), row_length, pad
            )
            block.fill(list(sources.values()), maps)
            block.write(draft, part, len(shard_rows))
            block.count(names, layout, counts)
            shard_rows.append(len(block.rows))
    with draft.shard(part.folder + INDEX) as shard:
        shard.path.write_text(RowIndex(row_length, pad, names, tuple(shard_rows)).to_json())
    return counts


def _windows(sources: list[SpooledSource], draws: Draws, row_length: int) -> Iterator[_Placed]:
    """Pack so many pieces at once that memory stays bounded."""
    step = _WINDOW_PIECES
    for first in range(0, len(draws.documents_N), step):
        held = slice(first, first + step)
        source_of: list[int] = []
        piece_of: list[int] = []
        for source, document in zip(
            draws.sources_N[held].tolist(), draws.documents_N[held].tolist(), strict=True
        ):
            bounds = sources[source].first_piece_D
            pieces = range(int(bounds[document]), int(bounds[document + 1]))
            source_of += [source] * len(pieces)
            piece_of += pieces
        yield _place(
            sources, np.array(source_of, np.int16), np.array(piece_of, np.int64), row_length
        )


def _place(
    sources: list[SpooledSource],
    source_of: NDArray[np.int16],
    piece_of: NDArray[np.int64],
    row_length: int,
) -> _Placed:
    lengths = np.empty(len(piece_of), np.int64)
    for index, source in enumerate(sources):
        own = source_of == index
        lengths[own] = np.diff(source.starts_P)[piece_of[own]]
    packing = pack_best_fit(lengths, row_length)
    order = np.lexsort((packing.starts_P, packing.rows_P))
    return _Placed(
        packing.rows_P[order],
        packing.starts_P[order],
        source_of[order],
        piece_of[order],
        packing.num_rows,
    )


class _Block:
    """The rows of one shard."""

    def __init__(self, placed: _Placed, rows: range, row_length: int, pad: int) -> None:
        self.rows = rows
        first, last = np.searchsorted(placed.rows_P, [rows.start, rows.stop])
        self._pieces = slice(int(first), int(last))
        self._placed = placed
        self._tokens = np.full((len(rows), row_length), pad, "<i4")
        self._is_target = np.zeros((len(rows), row_length), np.bool_)
        self._lengths = np.zeros(self._pieces.stop - self._pieces.start, np.int64)

    def fill(self, sources: list[SpooledSource], maps: list[tuple[Ids, Mask]]) -> None:
        """Copy each piece to its place; the first token of a piece is no target."""
        held = self._pieces
        places = zip(
            (self._placed.rows_P[held] - self.rows.start).tolist(),
            self._placed.starts_P[held].tolist(),
            self._placed.sources_P[held].tolist(),
            self._placed.pieces_P[held].tolist(),
            strict=True,
        )
        for number, (row, start, source, piece) in enumerate(places):
            begin, end = sources[source].starts_P[piece : piece + 2].tolist()
            ids, is_target = maps[source]
            stop = start + end - begin
            self._tokens[row, start:stop] = ids[begin:end]
            self._is_target[row, start + 1 : stop] = is_target[begin + 1 : end]
            self._lengths[number] = end - begin

    def write(self, draft: ArtifactDraft, part: RowPart, number: int) -> None:
        """Write the four files."""
        held = self._pieces
        folder = f"{part.folder}rows-{number:05d}"
        documents = np.stack(
            [
                self._placed.rows_P[held] - self.rows.start,
                self._placed.starts_P[held],
                self._placed.sources_P[held],
            ],
            axis=1,
        )
        with draft.shard(f"{folder}/tokens.bin") as shard:
            self._tokens.tofile(shard.path)
            rows, tokens = len(self.rows), int(self._lengths.sum())
            shard.count(**{f"{part.counts}rows": rows, f"{part.counts}tokens": tokens})
        with draft.shard(f"{folder}/targets.bin") as shard:
            np.packbits(self._is_target, axis=1).tofile(shard.path)
        with draft.shard(f"{folder}/counts.bin") as shard:
            self._is_target.sum(axis=1).astype("<i4").tofile(shard.path)
        with draft.shard(f"{folder}/documents.bin") as shard:
            documents.astype("<i4").tofile(shard.path)
            shard.count(**{f"{part.counts}documents": len(documents)})

    def count(self, names: tuple[str, ...], layout: VocabularyLayout, counts: RowCounts) -> None:
        """Add this block to the report."""
        held = self._pieces
        rows = self._placed.rows_P[held] - self.rows.start
        starts = self._placed.starts_P[held]
        sums = np.concatenate(
            [np.zeros((len(self.rows), 1), np.int64), np.cumsum(self._is_target, axis=1)], axis=1
        )
        targets = sums[rows, starts + self._lengths] - sums[rows, starts]
        for index, name in enumerate(names):
            own = self._placed.sources_P[held] == index
            counts.tokens[name] += int(self._lengths[own].sum())
            counts.targets[name] += int(targets[own].sum())
        num_text = int(layout.is_text(self._tokens).sum())
        num_speech = int(layout.is_speech(self._tokens).sum())
        num_markers = int(self._lengths.sum()) - num_text - num_speech
        counts.modalities.update(text=num_text, speech=num_speech, marker=num_markers)
        counts.num_rows += len(self.rows)
        counts.num_positions += self._tokens.size


def _map(path: Path, dtype: str) -> NDArray[Any]:
    """Memory-map a file, which may be empty."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
