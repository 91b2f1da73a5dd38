"""From a document to the rows that hold it, and from rows to the steps that read them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.core.artifacts import ArtifactRef
from interloom.mixture.indexed import IndexedTokens, ResidentPages
from interloom.mixture.order import RowOrder
from interloom.mixture.row_index import RowIndex
from interloom.mixture.rows import INDEX, ORIGIN, StoredRows
from interloom.ports.store import ArtifactStore

_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class PlacedDocument:
    """A document in the rows of a mixture.

    Attributes:
        source: Of the mixture, in which it is a document.
        rows: That hold a piece of it, in order.
    """

    source: str
    rows: tuple[int, ...]


def place_document(
    store: ArtifactStore, rows: ArtifactRef, document_id: str
) -> Iterator[PlacedDocument]:
    """The rows for training that hold pieces of a document, for each source that has it.

    Reads the tables of documents and the origins of all pieces, and no token.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    manifest = store.manifest(rows)
    index_json = store.local_path(manifest.shard(INDEX)).read_text(encoding="utf-8")
    names = RowIndex.from_json(index_json).source_names
    for number, name in enumerate(names):
        table = pq.read_table(
            store.local_path(manifest.shard(f"documents/{name}.parquet")), columns=["id"]
        )
        place = pc.index(table["id"], document_id).as_py()
        if place >= 0:
            held = _rows_with(store, rows, source=number, document=place)
            yield PlacedDocument(name, tuple(held))


def _rows_with(
    store: ArtifactStore, rows: ArtifactRef, *, source: int, document: int
) -> Iterator[int]:
    """The rows with a piece of one document of one source, in order."""
    manifest = store.manifest(rows)
    index_json = store.local_path(manifest.shard(INDEX)).read_text(encoding="utf-8")
    first = 0
    for number, num_rows in enumerate(RowIndex.from_json(index_json).shard_rows):
        folder = f"rows-{number:05d}"
        origins = np.fromfile(store.local_path(manifest.shard(f"{folder}/pieces.bin")), ORIGIN)
        is_held = (origins["source"] == source) & (origins["document"] == document)
        if is_held.any():
            row_of = _row_of_each_piece(store, rows, folder)
            yield from sorted({first + int(row) for row in row_of[is_held]})
        first += num_rows


def _row_of_each_piece(store: ArtifactStore, rows: ArtifactRef, folder: str) -> NDArray[np.int64]:
    """The row, in its shard, that each piece lies in."""
    manifest = store.manifest(rows)
    tokens = store.local_path(manifest.shard(f"{folder}/tokens.bin"))
    index = store.local_path(manifest.shard(f"{folder}/tokens.idx"))
    first_pieces = IndexedTokens(tokens, index, ResidentPages()).first_sequences_D
    return np.repeat(np.arange(len(first_pieces) - 1), np.diff(first_pieces))


def steps_with(
    order: RowOrder, rows: Collection[int], *, rows_per_step: int, num_steps: int
) -> tuple[int, ...]:
    """The optimizer steps, counted from 0, that read any of these rows."""
    wanted = np.array(sorted(rows), np.int64)
    found: list[int] = []
    for start in range(0, num_steps * rows_per_step, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, num_steps * rows_per_step)
        read = np.array(order.rows(start, stop), np.int64)
        found += ((np.flatnonzero(np.isin(read, wanted)) + start) // rows_per_step).tolist()
    return tuple(sorted(set(found)))


def rows_of_step(order: RowOrder, step: int, *, rows_per_step: int) -> list[int]:
    """The rows that one optimizer step, counted from 0, reads."""
    return order.rows(step * rows_per_step, (step + 1) * rows_per_step)


def open_order(stored: StoredRows, seed: int) -> RowOrder:
    """The order in which a training with this seed reads the rows."""
    return RowOrder(stored.num_rows, seed, stored.phase_rows)
