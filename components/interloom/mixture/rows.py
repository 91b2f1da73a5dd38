"""Packed rows: what they hold, in memory or memory-mapped from an artifact.

Legend: B rows, L tokens of a row, D documents.

An artifact of kind PACKED_ROWS has ``index.json`` and, for each shard, ``rows-NNNNN/``, and the
same again under ``heldout/`` if anything is held out:
``tokens.bin`` int32 (N, L); ``targets.bin`` bits (N, ceil(L / 8)), big end first; ``counts.bin``
int32 (N,), targets of each row; ``documents.bin`` int32 (D, 3): row in the shard, first position,
source; ordered. Numbers are little-endian. A position before the first padding belongs to the last
document that starts at or before it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.mixture.examples import Example, Ids, Mask
from interloom.mixture.packing import pack_best_fit
from interloom.ports.store import ArtifactStore

INDEX = "index.json"


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Rows as the model wants them.

    Attributes:
        tokens_BL: Joint ids; the padding id after the last document.
        segments_BL: Which document of the row a token belongs to, from 0; padding has the next one.
        positions_BL: Place within the document, from 0.
        is_target_BL: Tokens to predict; never the first of a document, never padding.
        sources_BL: Index into the source names; of padding, that of the last document.
    """

    tokens_BL: Ids
    segments_BL: Ids
    positions_BL: Ids
    is_target_BL: Mask
    sources_BL: Ids


class RowPart(StrEnum):
    """Which rows of an artifact."""

    TRAIN = "train"
    HELDOUT = "heldout"

    @property
    def folder(self) -> str:
        """Where its shards lie."""
        return "" if self is RowPart.TRAIN else "heldout/"

    @property
    def counts(self) -> str:
        """What the names of its shards' counts begin with."""
        return "" if self is RowPart.TRAIN else "heldout_"


class RowSource(Protocol):
    """Rows by their index."""

    @property
    def num_rows(self) -> int:
        """How many there are."""
        ...

    @property
    def row_length(self) -> int:
        """L."""
        ...

    @property
    def source_names(self) -> tuple[str, ...]:
        """What ``RowBatch.sources_BL`` counts."""
        ...

    def num_targets(self, rows: Sequence[int]) -> int:
        """Targets of these rows together."""
        ...

    def batch(self, rows: Sequence[int]) -> RowBatch:
        """These rows, in this order."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One row as it is stored: documents as (first position, source), and the end of the last."""

    tokens_L: Ids
    is_target_L: Mask
    documents_D2: Ids


class MemoryRows:
    """Rows that are packed on the spot, for data that fits in memory."""

    def __init__(
        self, examples: Sequence[tuple[str, Example]], *, row_length: int, pad: int
    ) -> None:
        """Pack examples, each given with the name of its source.

        Raises:
            DataError: An example is longer than a row.
        """
        self.row_length = row_length
        self.source_names = tuple(sorted({name for name, _ in examples}))
        packing = pack_best_fit([len(example.ids_T) for _, example in examples], row_length)
        self.num_rows = packing.num_rows
        self._pad = pad
        self._tokens = np.full((packing.num_rows, row_length), pad, np.int32)
        self._is_target = np.zeros((packing.num_rows, row_length), np.bool_)
        documents: list[list[tuple[int, int]]] = [[] for _ in range(packing.num_rows)]
        places = zip(examples, packing.rows_P.tolist(), packing.starts_P.tolist(), strict=True)
        for (name, example), row, start in places:
            stop = start + len(example.ids_T)
            self._tokens[row, start:stop] = example.ids_T
            self._is_target[row, start + 1 : stop] = example.is_target_T[1:]
            documents[row].append((start, self.source_names.index(name)))
        self._documents = [np.array(sorted(held), np.int32) for held in documents]

    def num_targets(self, rows: Sequence[int]) -> int:
        """Targets of these rows together."""
        return int(self._is_target[list(rows)].sum())

    def batch(self, rows: Sequence[int]) -> RowBatch:
        """These rows, in this order."""
        held = [_Row(self._tokens[r], self._is_target[r], self._documents[r]) for r in rows]
        return _batch(held, self._pad)


class StoredRows:
    """Rows of an artifact, memory-mapped."""

    def __init__(self, folder_of: Sequence[dict[str, Path]], index: "RowIndex") -> None:
        """Map the files of each shard, given by their names."""
        self.row_length = index.row_length
        self.source_names = index.source_names
        self.num_rows = sum(index.shard_rows)
        self._pad = index.pad
        self._shards = [
            _ShardFiles.open(files, num_rows, index.row_length)
            for files, num_rows in zip(folder_of, index.shard_rows, strict=True)
        ]
        self._starts = np.cumsum([0, *index.shard_rows])

    def num_targets(self, rows: Sequence[int]) -> int:
        """Targets of these rows together."""
        return sum(int(shard.counts_N[row]) for shard, row in map(self._find, rows))

    def batch(self, rows: Sequence[int]) -> RowBatch:
        """These rows, in this order."""
        return _batch([shard.row(row) for shard, row in map(self._find, rows)], self._pad)

    def _find(self, row: int) -> "tuple[_ShardFiles, int]":
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._shards[shard], row - int(self._starts[shard])


@dataclass(frozen=True, slots=True)
class RowIndex:
    """What ``index.json`` says."""

    row_length: int
    pad: int
    source_names: tuple[str, ...]
    shard_rows: tuple[int, ...]

    def to_json(self) -> str:
        """For the artifact."""
        return json.dumps(
            {
                "pad": self.pad,
                "row_length": self.row_length,
                "shard_rows": list(self.shard_rows),
                "source_names": list(self.source_names),
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> "RowIndex":
        """Read what ``to_json`` gave."""
        body = json.loads(text)
        return cls(
            row_length=body["row_length"],
            pad=body["pad"],
            source_names=tuple(body["source_names"]),
            shard_rows=tuple(body["shard_rows"]),
        )


def load_heldout_rows(store: ArtifactStore, ref: ArtifactRef) -> StoredRows | None:
    """The rows of an artifact that nothing is trained on; None if there are none.

    Raises:
        DataError: A file has another size than the index says.
    """
    if not store.manifest(ref).shards_under(RowPart.HELDOUT.folder):
        return None
    return load_rows(store, ref, RowPart.HELDOUT)


def load_rows(store: ArtifactStore, ref: ArtifactRef, part: RowPart = RowPart.TRAIN) -> StoredRows:
    """The rows of an artifact.

    Raises:
        DataError: A file has another size than the index says.
    """
    manifest = store.manifest(ref)
    index_path = store.local_path(manifest.shard(part.folder + INDEX))
    index = RowIndex.from_json(index_path.read_text())
    folders = [
        {
            shard.path.rpartition("/")[2]: store.local_path(shard)
            for shard in manifest.shards_under(f"{part.folder}rows-{number:05d}/")
        }
        for number in range(len(index.shard_rows))
    ]
    return StoredRows(folders, index)


@dataclass(frozen=True, slots=True, eq=False)
class _ShardFiles:
    """The memory-mapped files of one shard."""

    tokens_NL: Ids
    bits: NDArray[np.uint8]
    counts_N: Ids
    documents_D3: Ids

    @classmethod
    def open(cls, files: dict[str, Path], num_rows: int, row_length: int) -> "_ShardFiles":
        width = -(-row_length // 8)
        documents = np.memmap(files["documents.bin"], "<i4", mode="r").reshape(-1, 3)
        try:
            return cls(
                np.memmap(files["tokens.bin"], "<i4", "r").reshape(num_rows, row_length),
                np.memmap(files["targets.bin"], np.uint8, "r").reshape(num_rows, width),
                np.memmap(files["counts.bin"], "<i4", "r").reshape(num_rows),
                documents,
            )
        except ValueError as error:
            raise DataError(f"packed rows do not fit their index: {error}") from error

    def row(self, row: int) -> _Row:
        first, last = np.searchsorted(self.documents_D3[:, 0], [row, row + 1])
        is_target = np.unpackbits(self.bits[row], count=self.tokens_NL.shape[1]).astype(np.bool_)
        return _Row(self.tokens_NL[row], is_target, self.documents_D3[first:last, 1:])


def _batch(rows: Sequence[_Row], pad: int) -> RowBatch:
    tokens = np.stack([row.tokens_L for row in rows])
    laid_out = [_layout(row, pad) for row in rows]
    return RowBatch(
        tokens_BL=tokens,
        segments_BL=np.stack([segments for segments, _, _ in laid_out]),
        positions_BL=np.stack([positions for _, positions, _ in laid_out]),
        is_target_BL=np.stack([row.is_target_L for row in rows]),
        sources_BL=np.stack([sources for _, _, sources in laid_out]),
    )


def _layout(row: _Row, pad: int) -> tuple[Ids, Ids, Ids]:
    """Segments, positions and sources (L,) of one row."""
    length = len(row.tokens_L)
    starts = row.documents_D2[:, 0]
    filled = int(np.count_nonzero(row.tokens_L != pad))  # padding stands at the end alone
    bounds = np.append(starts, filled) if filled < length else starts
    segments = np.searchsorted(bounds, np.arange(length), side="right") - 1
    positions = np.arange(length) - bounds[segments]
    sources = row.documents_D2[np.minimum(segments, len(starts) - 1), 1]
    return segments.astype(np.int32), positions.astype(np.int32), sources.astype(np.int32)
