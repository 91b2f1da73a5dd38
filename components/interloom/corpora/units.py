"""Units of work that a corpus is cut into, and how one is read, in bounded memory.

A unit is a run of rows that are handled together. Units depend on the corpus and the recipe alone,
so that any worker may take any of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from interloom.core.artifacts import Shard
from interloom.ports.store import ArtifactStore

Row = dict[str, Any]

BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows ``[start, stop)`` of one shard of the corpus."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Unit:
    """Documents or utterances that are handled together.

    Attributes:
        index: Its number, from 0.
        stretches: Where its rows are, in order.
    """

    index: int
    stretches: tuple[Stretch, ...]

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.index:05d}"


def cut_evenly(shards: Sequence[Shard], num_rows: int) -> Iterator[Unit]:
    """Units of so many rows each, the last one shorter; over the ends of shards."""
    index, room, stretches = 0, num_rows, list[Stretch]()
    for number, shard in enumerate(shards):
        at, stop = 0, shard.counts["rows"]
        while at < stop:
            taken = min(room, stop - at)
            stretches.append(Stretch(number, at, at + taken))
            at, room = at + taken, room - taken
            if not room:
                yield Unit(index, tuple(stretches))
                index, room, stretches = index + 1, num_rows, []
    if stretches:
        yield Unit(index, tuple(stretches))


def read_unit(store: ArtifactStore, shards: Sequence[Shard], unit: Unit) -> Iterator[Row]:
    """All rows of a unit, in order."""
    for stretch in unit.stretches:
        yield from _read_stretch(store, shards[stretch.shard], stretch)


def _read_stretch(store: ArtifactStore, shard: Shard, stretch: Stretch) -> Iterator[Row]:
    """The rows of a stretch, from the row groups that hold them."""
    with pq.ParquetFile(store.local_path(shard), pre_buffer=False) as file:
        first = 0
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if first < stretch.stop and stretch.start < first + num_rows:
                at = first
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
                    low, high = max(0, stretch.start - at), max(0, stretch.stop - at)
                    yield from batch.slice(low, max(0, high - low)).to_pylist()
                    at += batch.num_rows
            first += num_rows
