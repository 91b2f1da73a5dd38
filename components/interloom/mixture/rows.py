"""Packed rows: what they hold, in memory or read from an artifact.

Legend: B rows, L tokens of a row, S pieces of documents, N rows of a shard.

An artifact of kind PACKED_ROWS has ``index.json``, ``documents/SOURCE.parquet`` (id, licence and
tokens of every document that the source has) and, for each shard, ``rows-NNNNN/``, and the same
again under ``heldout/`` if anything is held out:
``tokens.bin`` and ``tokens.idx``, Megatron's format with a document for each row and a sequence for
each piece, without padding; ``targets.bin``, a bit for each token, big end first; ``counts.bin``
int32 (N,), targets of each row; ``pieces.bin``, an ``ORIGIN`` for each piece; and, if the mixture
asks for alignment, ``begins.bin``, a nibble for each token.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.mixture.alignment import from_nibbles
from interloom.mixture.batches import PackedRow, RowBatch, batch_of
from interloom.mixture.examples import Example, Ids
from interloom.mixture.indexed import IndexedTokens, ResidentPages, Tokens
from interloom.mixture.packing import pack_best_fit
from interloom.mixture.row_index import RowIndex
from interloom.ports.store import ArtifactStore

INDEX = "index.json"
ORIGIN = np.dtype([("document", "<i8"), ("start", "<i4"), ("source", "<i2"), ("licence", "<i2")])
"""Of a piece: number of its document in the source, first token in it, source, licence."""

DOCUMENTS_PER_GROUP = 8192  # of the table of documents
_OPEN_SHARDS = 32  # at once, each with so many bytes of mapped pages
_SHARD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a piece of a row is from.

    Attributes:
        source: Name of the source.
        document_id: Id of the document, unique in its source.
        start: First token of the piece in the document.
        num_tokens: Its length.
        licence: SPDX tag.
    """

    source: str
    document_id: str
    start: int
    num_tokens: int
    licence: str


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

    @property
    def phase_rows(self) -> tuple[int, ...]:
        """Rows of each phase of the mixture's schedule, in order; they sum to ``num_rows``."""
        ...

    def num_targets(self, rows: Sequence[int]) -> int:
        """Targets of these rows together."""
        ...

    def batch(self, rows: Sequence[int]) -> RowBatch:
        """These rows, in this order."""
        ...


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
        self._pad = pad
        packing = pack_best_fit([len(example.ids_T) for _, example in examples], row_length)
        self.num_rows = packing.num_rows
        order = np.lexsort((packing.starts_P, packing.rows_P))
        bounds = np.searchsorted(packing.rows_P[order], np.arange(packing.num_rows + 1))
        self._tokens = [
            np.concatenate([examples[place][1].ids_T for place in order[first:last]])
            for first, last in itertools.pairwise(bounds)
        ]
        self._rows = [
            self._row([examples[place] for place in order[first:last]])
            for first, last in itertools.pairwise(bounds)
        ]

    @property
    def phase_rows(self) -> tuple[int, ...]:
        """All rows are of one phase."""
        return (self.num_rows,)

    def num_targets(self, rows: Sequence[int]) -> int:
        """Targets of these rows together."""
        return sum(int(self._rows[row].is_target_T.sum()) for row in rows)

    def batch(self, rows: Sequence[int]) -> RowBatch:
        """These rows, in this order."""
        tokens = np.full((len(rows), self.row_length), self._pad, np.int32)
        for place, row in enumerate(rows):
            tokens[place, : len(self._tokens[row])] = self._tokens[row]
        return batch_of(tokens, [self._rows[row] for row in rows])

    def _row(self, held: Sequence[tuple[str, Example]]) -> PackedRow:
        lengths = np.array([len(example.ids_T) for _, example in held], np.int32)
        is_target = np.concatenate([example.is_target_T for _, example in held])
        is_target[np.cumsum(lengths) - lengths] = False
        return PackedRow(
            is_target,
            lengths,
            np.array([self.source_names.index(name) for name, _ in held], np.int16),
        )


class StoredRows:
    """Rows of an artifact, read by their number."""

    def __init__(
        self,
        shards: Sequence[Mapping[str, Path]],
        index: RowIndex,
        documents: Mapping[str, Path],
    ) -> None:
        """Look at the sizes of all files.

        Args:
            shards: The files of each shard, by name.
            index: What ``index.json`` says.
            documents: The table of each source's documents.

        Raises:
            DataError: A file was cut short, or does not fit its index.
        """
        self.row_length = index.row_length
        self.source_names = index.source_names
        self.phase_rows = index.phase_rows
        self.num_rows = sum(index.shard_rows)
        self._index = index
        self._shards = shards
        self._documents = documents
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)
        self._ids = lru_cache(maxsize=_OPEN_SHARDS)(self._read_ids)
        self._starts = np.cumsum([0, *index.shard_rows]).tolist()
        for number in range(len(shards)):
            self._open(number)

    def num_targets(self, rows: Sequence[int]) -> int:
        """Targets of these rows together."""
        return sum(int(shard.counts_N[row]) for shard, row in map(self._find, rows))

    def batch(self, rows: Sequence[int]) -> RowBatch:
        """These rows, in this order."""
        found = [self._find(row) for row in rows]
        length = self.row_length
        if self._index.row_units is not None:
            length = max(shard.length(row) for shard, row in found)
        tokens = np.full((len(rows), length), self._index.pad, "<i4")
        held = [shard.row(row, out_L) for (shard, row), out_L in zip(found, tokens, strict=True)]
        return batch_of(tokens, held)

    def tokens(self, row: int) -> Tokens:
        """The tokens of one row, without padding; a view."""
        shard, place = self._find(row)
        return shard.tokens.document(place)

    def origins(self, row: int) -> tuple[Origin, ...]:
        """Where the pieces of a row are from, in their order."""
        shard, place = self._find(row)
        lengths, held = shard.pieces(place)
        return tuple(
            Origin(
                source=self.source_names[piece["source"]],
                document_id=self._document_id(self.source_names[piece["source"]], piece),
                start=int(piece["start"]),
                num_tokens=int(length),
                licence=self._index.licence_names[piece["licence"]],
            )
            for length, piece in zip(lengths, held, strict=True)
        )

    def _document_id(self, source: str, piece: Any) -> str:
        group, place = divmod(int(piece["document"]), DOCUMENTS_PER_GROUP)
        return str(self._ids(source, group)[place])

    def _read_ids(self, source: str, group: int) -> Any:
        """Ids of the documents of one row group of a source's table."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._documents[source]) as file:
            return file.read_row_group(group, columns=["id"])["id"]

    def _find(self, row: int) -> "tuple[_ShardFiles, int]":
        if not 0 <= row < self.num_rows:
            raise ConfigError(f"there is no row {row}; the artifact has {self.num_rows}, from 0")
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._open(shard), row - self._starts[shard]

    def _open_shard(self, number: int) -> "_ShardFiles":
        files, num_rows = self._shards[number], self._index.shard_rows[number]
        return _ShardFiles.open(files, num_rows, ResidentPages(_SHARD_BYTES))


def load_heldout_rows(store: ArtifactStore, ref: ArtifactRef) -> StoredRows | None:
    """The rows of an artifact that nothing is trained on; None if there are none.

    Raises:
        DataError: A file was cut short, or does not fit its index.
    """
    if not store.manifest(ref).shards_under(RowPart.HELDOUT.folder):
        return None
    return load_rows(store, ref, RowPart.HELDOUT)


def load_rows(store: ArtifactStore, ref: ArtifactRef, part: RowPart = RowPart.TRAIN) -> StoredRows:
    """The rows of an artifact.

    Raises:
        DataError: A file was cut short, or does not fit its index, or index and manifest name
            different vocabularies.
    """
    manifest = store.manifest(ref)
    index_path = store.local_path(manifest.shard(part.folder + INDEX))
    index = RowIndex.from_json(index_path.read_text())
    if index.vocabulary != manifest.facts["vocabulary"]:
        raise DataError(
            f"the rows of {ref} are of vocabulary {index.vocabulary[:12]}, its manifest says "
            f"{manifest.facts['vocabulary'][:12]}; run the mix stage again"
        )
    files = [
        {
            shard.path.rpartition("/")[2]: store.local_path(shard)
            for shard in manifest.shards_under(f"{part.folder}rows-{number:05d}/")
        }
        for number in range(len(index.shard_rows))
    ]
    documents = {
        name: store.local_path(manifest.shard(f"{part.folder}documents/{name}.parquet"))
        for name in index.source_names
    }
    return StoredRows(files, index, documents)


@dataclass(frozen=True, slots=True, eq=False)
class _ShardFiles:
    """The memory-mapped files of one shard."""

    tokens: IndexedTokens
    bits: NDArray[np.uint8]
    counts_N: NDArray[np.int32]
    origins_S: NDArray[Any]
    begins: NDArray[np.uint8] | None
    pages: ResidentPages

    @classmethod
    def open(cls, files: Mapping[str, Path], num_rows: int, pages: ResidentPages) -> "_ShardFiles":
        held = cls(
            IndexedTokens(files["tokens.bin"], files["tokens.idx"], pages),
            pages.array(files["targets.bin"], "|u1"),
            pages.array(files["counts.bin"], "<i4"),
            pages.array(files["pieces.bin"], ORIGIN),
            pages.array(files["begins.bin"], "|u1") if "begins.bin" in files else None,
            pages,
        )
        found = (
            held.tokens.num_documents,
            len(held.counts_N),
            len(held.origins_S),
            len(held.bits),
        )
        held.require_begins()
        sequences, num_bytes = held.tokens.num_sequences, -(-held.tokens.num_tokens // 8)
        expected = (num_rows, num_rows, sequences, num_bytes)
        if found != expected:
            raise DataError(
                "packed rows do not fit their index: rows, counts, pieces and bytes of targets "
                f"are {found}, expected {expected}; run the mix stage again"
            )
        return held

    def require_begins(self) -> None:
        """Refuse an alignment that does not cover the tokens."""
        needed = -(-self.tokens.num_tokens // 2)
        if self.begins is not None and len(self.begins) != needed:
            raise DataError(
                f"the alignment of packed rows has {len(self.begins)} bytes, their tokens need "
                f"{needed}; run the mix stage again"
            )

    def pieces(self, row: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Length and origin of each piece of a row."""
        first, last = self.tokens.first_sequences_D[row : row + 2].tolist()
        return self.tokens.lengths_S[first:last], self.origins_S[first:last]

    def length(self, row: int) -> int:
        """Tokens of a row."""
        return int(self.pieces(row)[0].sum())

    def row(self, row: int, out_L: Ids) -> PackedRow:
        """Read a row's tokens to the beginning of ``out_L``; gives the rest of it."""
        self.pages.touch(5)
        first, last = self.tokens.first_sequences_D[row : row + 2].tolist()
        start, stop = self.tokens.first_token(first), self.tokens.first_token(last)
        bits = np.unpackbits(self.bits[start >> 3 : (stop + 7) >> 3])
        self.tokens.tokens_into(start, stop, out_L)
        return PackedRow(
            bits[start & 7 : (start & 7) + stop - start].view(np.bool_),
            self.tokens.lengths_S[first:last],
            self.origins_S["source"][first:last],
            None if self.begins is None else from_nibbles(self.begins, start, stop),
        )
