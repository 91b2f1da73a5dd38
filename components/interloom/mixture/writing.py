"""From spooled sources to an artifact of packed rows, in bounded memory.

The plan, the draws and the packing see lengths only; rows are then written in order, each piece
read back from the spool.

Legend: N draws, P pieces, T tokens.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from interloom.mixture.alignment import Begin, Begins, to_nibbles
from interloom.mixture.indexed import write_index
from interloom.mixture.packing import pack_best_fit
from interloom.mixture.plan import Draws
from interloom.mixture.row_index import RowIndex
from interloom.mixture.rows import INDEX, ORIGIN, RowPart
from interloom.mixture.spooling import SpooledSource
from interloom.ports.store import ArtifactDraft
from interloom.vocabulary.layout import Marker, VocabularyLayout

_TOKENS_PER_SHARD = 1 << 26
_WINDOW_PIECES = 1 << 20  # packed together; windows follow each other in the order of the draws


@dataclass(slots=True)
class RowCounts:
    """What the rows hold.

    Attributes:
        tokens: By source, as many as their codes where ids stand for several; so all but targets.
        targets: By source.
        modalities: Tokens that are text, speech or markers.
        licences: Tokens by SPDX tag.
        utterances: Runs of speech, ``aligned`` and ``unaligned``; none where nobody asks for it.
        num_rows: Rows.
        num_filled: Places that hold something: of tokens, or of units where rows count them.
        num_positions: Places in all rows, padding included.
    """

    tokens: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    utterances: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0
    num_filled: int = 0
    num_positions: int = 0

    @property
    def fill(self) -> float:
        """The part of all places that is not padding."""
        return self.num_filled / max(1, self.num_positions)


def write_rows(
    draft: ArtifactDraft,
    sources: Mapping[str, SpooledSource],
    draws: Draws,
    *,
    row_length: int,
    layout: VocabularyLayout,
    part: RowPart = RowPart.TRAIN,
) -> RowCounts:
    """Pack the drawn documents and write the rows, their index and the sources' documents.

    Args:
        draft: Gets the shards.
        sources: In the order that ``draws.sources_N`` counts.
        draws: Which documents, in order; no row holds documents of two phases.
        row_length: L.
        layout: Says which ids are text, speech and padding.
        part: Which rows of the artifact these are.
    """
    writer = _Writer(draft, sources, layout, row_length, part)
    phase_rows: list[int] = []
    for first, last in zip((0, *draws.phase_ends[:-1]), draws.phase_ends, strict=True):
        before = writer.counts.num_rows
        for start in range(first, last, _WINDOW_PIECES):
            held = slice(start, min(last, start + _WINDOW_PIECES))
            writer.write(draws.sources_N[held], draws.documents_N[held])
        phase_rows.append(writer.counts.num_rows - before)
    writer.finish(tuple(phase_rows))
    return writer.counts


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Pieces in the order of their rows.

    Attributes:
        rows_P: The row of each, counted from the first of these.
        origins_P: ``ORIGIN``.
        begins_P: First token of each in the spool of its source.
        lengths_P: Tokens of each.
        weights_P: What each takes of a row's room.
    """

    rows_P: NDArray[np.int64]
    origins_P: NDArray[np.void]
    begins_P: NDArray[np.int64]
    lengths_P: NDArray[np.int64]
    weights_P: NDArray[np.int64]

    def between(self, first_row: int, last_row: int) -> "_Pieces":
        """The pieces of the rows ``[first_row, last_row)``, counted from ``first_row``."""
        first, last = np.searchsorted(self.rows_P, [first_row, last_row])
        held = slice(int(first), int(last))
        return _Pieces(
            self.rows_P[held] - first_row,
            self.origins_P[held],
            self.begins_P[held],
            self.lengths_P[held],
            self.weights_P[held],
        )


class _Writer:
    """Writes rows, shard by shard."""

    def __init__(
        self,
        draft: ArtifactDraft,
        sources: Mapping[str, SpooledSource],
        layout: VocabularyLayout,
        row_length: int,
        part: RowPart,
    ) -> None:
        self.counts = RowCounts()
        self._draft = draft
        self._names = tuple(sources)
        self._sources = tuple(sources.values())
        self._maps = [(held.tokens(), held.is_target()) for held in self._sources]
        self._begins = [held.what_begins() for held in self._sources]
        self._layout = layout
        self._row_length = row_length
        self._room = self._sources[0].room
        self._part = part
        self._shard_rows: list[int] = []
        names = sorted({name for held in self._sources for name in held.licence_names})
        self._licence_names = tuple(names)

    def write(self, sources_N: NDArray[np.int16], documents_N: NDArray[np.int64]) -> None:
        """Pack these documents together and write their rows."""
        pieces = self._packed(sources_N, documents_N)
        num_rows = int(pieces.rows_P[-1]) + 1
        step = max(1, _TOKENS_PER_SHARD // self._row_length)
        for first in range(0, num_rows, step):
            last = min(first + step, num_rows)
            self._write_shard(pieces.between(first, last), last - first)

    def finish(self, phase_rows: tuple[int, ...]) -> None:
        """Write the index and the tables of documents."""
        for name, source in zip(self._names, self._sources, strict=True):
            with self._draft.shard(f"{self._part.folder}documents/{name}.parquet") as shard:
                shutil.copyfile(source.documents, shard.path)
        index = RowIndex(
            row_length=self._row_length,
            pad=self._layout.marker(Marker.PAD),
            vocabulary=self._layout.digest,
            source_names=self._names,
            licence_names=self._licence_names,
            shard_rows=tuple(self._shard_rows),
            phase_rows=phase_rows,
            row_units=None if self._room == self._row_length else self._room,
        )
        with self._draft.shard(self._part.folder + INDEX) as shard:
            shard.path.write_text(index.to_json())

    def _packed(self, sources_N: NDArray[np.int16], documents_N: NDArray[np.int64]) -> _Pieces:
        """The pieces of documents, in the order of the rows that best fit gives them."""
        parts = [self._pieces_of(number, sources_N, documents_N) for number in self._numbers()]
        draws = np.concatenate([part[0] for part in parts])
        order = np.argsort(draws, kind="stable")
        origins, begins, lengths, weights = (
            np.concatenate([part[column] for part in parts])[order] for column in (1, 2, 3, 4)
        )
        packing = pack_best_fit(weights, self._room)
        order = np.lexsort((packing.starts_P, packing.rows_P))
        return _Pieces(
            packing.rows_P[order], origins[order], begins[order], lengths[order], weights[order]
        )

    def _numbers(self) -> Iterator[int]:
        return iter(range(len(self._sources)))

    def _pieces_of(
        self, number: int, sources_N: NDArray[np.int16], documents_N: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.void], *tuple[NDArray[np.int64], ...]]:
        """Of the draws from one source: draw, origin, first token, length, weight of each piece."""
        source = self._sources[number]
        draws = np.flatnonzero(sources_N == number)
        documents = documents_N[draws]
        first = source.first_piece_D[documents]
        counts = source.first_piece_D[documents + 1] - first
        ends = np.cumsum(counts)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
        pieces = np.repeat(first, counts) + within
        begins = source.starts_P[pieces]
        origins = np.empty(len(pieces), ORIGIN)
        origins["document"] = np.repeat(documents, counts)
        origins["start"] = begins - np.repeat(source.starts_P[first], counts)
        origins["source"] = number
        origins["licence"] = self._licences(source)[origins["document"]]
        lengths, weights = source.starts_P[pieces + 1] - begins, source.weights_P[pieces]
        return np.repeat(draws, counts), origins, begins, lengths, weights

    def _licences(self, source: SpooledSource) -> NDArray[np.int16]:
        """The licence of each document, as this artifact counts them."""
        if not source.licence_names:
            return np.zeros(0, np.int16)
        own = [self._licence_names.index(name) for name in source.licence_names]
        return np.array(own, np.int16)[source.licences_D]

    def _write_shard(self, pieces: _Pieces, num_rows: int) -> None:
        """Write its files, and count."""
        tokens, is_target, begins = self._copied(pieces)
        bounds_P = np.concatenate([[0], np.cumsum(pieces.lengths_P)])
        first_pieces = np.searchsorted(pieces.rows_P, np.arange(num_rows + 1))
        targets_P = np.diff(np.concatenate([[0], np.cumsum(is_target)])[bounds_P])
        targets_R = np.diff(np.concatenate([[0], np.cumsum(targets_P)])[first_pieces])
        folder, prefix = f"{self._part.folder}rows-{len(self._shard_rows):05d}", self._part.counts
        with self._draft.shard(f"{folder}/tokens.bin") as shard:
            tokens.tofile(shard.path)
            shard.count(**{f"{prefix}rows": num_rows, f"{prefix}tokens": len(tokens)})
        with self._draft.shard(f"{folder}/tokens.idx") as shard:
            write_index(shard.path, pieces.lengths_P, first_pieces)
        with self._draft.shard(f"{folder}/targets.bin") as shard:
            np.packbits(is_target).tofile(shard.path)
        with self._draft.shard(f"{folder}/counts.bin") as shard:
            targets_R.astype("<i4").tofile(shard.path)
        with self._draft.shard(f"{folder}/pieces.bin") as shard:
            pieces.origins_P.tofile(shard.path)
            shard.count(**{f"{prefix}documents": len(pieces.origins_P)})
        if begins is not None:
            with self._draft.shard(f"{folder}/begins.bin") as shard:
                to_nibbles(begins).tofile(shard.path)
            self._count_utterances(tokens, begins)
        self._shard_rows.append(num_rows)
        self._count(pieces, tokens, targets_P)

    def _copied(
        self, pieces: _Pieces
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], Begins | None]:
        """The pieces back to back: tokens, targets, never the first of a piece, and begins."""
        total = int(pieces.lengths_P.sum())
        tokens, is_target = np.empty(total, "<i4"), np.empty(total, np.bool_)
        is_aligned = any(held is not None for held in self._begins)
        begins = np.zeros(total, np.uint8) if is_aligned else None
        start = 0
        places = zip(
            pieces.origins_P["source"].tolist(),
            pieces.begins_P.tolist(),
            pieces.lengths_P.tolist(),
            strict=True,
        )
        for source, begin, length in places:
            ids, targets = self._maps[source]
            stop = start + length
            tokens[start:stop] = ids[begin : begin + length]
            is_target[start:stop] = targets[begin : begin + length]
            is_target[start] = False
            if begins is not None and (held := self._begins[source]) is not None:
                begins[start:stop] = held[begin : begin + length]
            start = stop
        return tokens, is_target, begins

    def _plain_lengths(self, pieces: _Pieces, tokens: NDArray[np.int32]) -> NDArray[np.int64]:
        """Tokens of each piece in the plain layout."""
        if self._layout.units is None:
            return pieces.lengths_P
        starts_P = np.cumsum(pieces.lengths_P) - pieces.lengths_P
        sums: NDArray[np.int64] = np.add.reduceat(self._layout.num_plain(tokens), starts_P)
        return sums

    def _count_utterances(self, tokens: NDArray[np.int32], begins: Begins) -> None:
        """Utterances whose alignment is known, and those where it is not; markers part them."""
        is_first = self._layout.is_speech(tokens)
        is_first[1:] &= ~is_first[:-1]
        is_aligned = begins[is_first] != Begin.NOTHING
        aligned, number = int(is_aligned.sum()), len(is_aligned)
        self.counts.utterances.update(aligned=aligned, unaligned=number - aligned)

    def _count(
        self, pieces: _Pieces, tokens: NDArray[np.int32], targets_P: NDArray[np.int64]
    ) -> None:
        """Add a shard to the report."""
        tokens_P = self._plain_lengths(pieces, tokens)
        sums = (
            (self.counts.tokens, self._names, "source", tokens_P),
            (self.counts.targets, self._names, "source", targets_P),
            (self.counts.licences, self._licence_names, "licence", tokens_P),
        )
        for counter, names, column, values in sums:
            counter.update(_by_name(names, pieces.origins_P[column], values))
        num_text, total = int(self._layout.is_text(tokens).sum()), int(tokens_P.sum())
        num_markers = len(tokens) - num_text - int(self._layout.is_speech(tokens).sum())
        num_speech = total - num_text - num_markers
        self.counts.modalities.update(text=num_text, speech=num_speech, marker=num_markers)
        self.counts.num_rows += self._shard_rows[-1]
        self.counts.num_filled += int(pieces.weights_P.sum())
        self.counts.num_positions += self._shard_rows[-1] * self._room


def _by_name(
    names: Sequence[str], numbers_P: NDArray[np.int16], values_P: NDArray[np.int64]
) -> dict[str, int]:
    """Sums of whole numbers by what ``numbers_P`` name."""
    sums = np.bincount(numbers_P, values_P, len(names))
    return {name: int(value) for name, value in zip(names, sums, strict=True)}
