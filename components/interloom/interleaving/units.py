"""Cut a corpus into units of documents that are planned, spoken, woven and checked together."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow.compute as pc
import pyarrow.parquet as pq

from interloom.core.artifacts import ArtifactRef, Shard
from interloom.corpora.units import BATCH_ROWS, Row, Stretch, Unit, read_unit
from interloom.interleaving.sampling import document_stream
from interloom.ports.store import ArtifactStore


@dataclass(frozen=True, slots=True)
class Taking:
    """Which rows are taken, and how many make a unit.

    Attributes:
        share: Share of the documents, chosen by their ids.
        seed: Of that choice.
        max_documents: Stop after so many; None takes all.
        unit_documents: Most documents in a unit.
        unit_bytes: A unit ends before its text is longer.
    """

    share: float
    seed: int
    max_documents: int | None
    unit_documents: int
    unit_bytes: int

    def refusal(self, row: Mapping[str, Any]) -> Literal["stays written", "not drawn"] | None:
        """Why a row is not taken; None if it is."""
        if not row.get("may_interleave", True):
            return "stays written"
        stream = f"take/{row['id']}"
        if self.share < 1 and document_stream(self.seed, stream).random() >= self.share:
            return "not drawn"
        return None


@dataclass(slots=True)
class Corpus:
    """The rows for training of a table, with a count of those that are not taken.

    Attributes:
        store: Holds it.
        ref: The artifact.
        table: ``documents`` or ``tokens``.
        taking: Which rows are taken.
        not_taken: By reason; whole once ``units`` has ended.
    """

    store: ArtifactStore
    ref: ArtifactRef
    table: str
    taking: Taking
    not_taken: Counter[str] = field(default_factory=Counter)

    def units(self) -> Iterator[Unit]:
        """All units, in order; reads ids and sizes only."""
        open_unit = _OpenUnit()
        taken = 0
        for shard, number, num_bytes, row in self._sizes():
            if (reason := self.taking.refusal(row)) is not None:
                self.not_taken[reason] += 1
                continue
            if taken == self.taking.max_documents:
                self.not_taken["beyond max_documents"] += 1
                continue
            if open_unit.is_full(num_bytes, self.taking):
                yield open_unit.close()
            open_unit.add(shard, number, num_bytes)
            taken += 1
        if open_unit.documents:
            yield open_unit.close()

    def read(self, unit: Unit) -> Iterator[Row]:
        """The rows of a unit that are taken."""
        for row in read_unit(self.store, self._shards(), unit):
            if self.taking.refusal(row) is None:
                yield row

    def _shards(self) -> tuple[Shard, ...]:
        return self.store.manifest(self.ref).shards_under(f"{self.table}/train-")

    def _sizes(self) -> Iterator[tuple[int, int, int, Mapping[str, Any]]]:
        """Shard, row, bytes of text, and what tells whether it is taken, of every row."""
        for number, shard in enumerate(self._shards()):
            with pq.ParquetFile(self.store.local_path(shard), pre_buffer=False) as file:
                wanted = ("id", "text", "may_interleave")
                columns = [name for name in wanted if name in file.schema_arrow.names]
                at = 0
                for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                    sizes = pc.binary_length(batch.column("text")).to_pylist()
                    for row, size in zip(
                        batch.drop_columns("text").to_pylist(), sizes, strict=True
                    ):
                        yield number, at, size, row
                        at += 1


@dataclass(slots=True)
class _OpenUnit:
    """The unit that rows are added to."""

    index: int = 0
    documents: int = 0
    num_bytes: int = 0
    stretches: list[Stretch] = field(default_factory=list)

    def is_full(self, num_bytes: int, taking: Taking) -> bool:
        """Whether one more document of this size is for the next unit."""
        return self.documents > 0 and (
            self.documents >= taking.unit_documents
            or self.num_bytes + num_bytes > taking.unit_bytes
        )

    def add(self, shard: int, row: int, num_bytes: int) -> None:
        """Let it reach to this row."""
        last = self.stretches[-1] if self.stretches else None
        if last is not None and last.shard == shard:
            self.stretches[-1] = Stretch(shard, last.start, row + 1)
        else:
            self.stretches.append(Stretch(shard, row, row + 1))
        self.documents += 1
        self.num_bytes += num_bytes

    def close(self) -> Unit:
        """The unit; what is added next goes into a new one."""
        unit = Unit(self.index, tuple(self.stretches))
        self.index, self.documents, self.num_bytes, self.stretches = self.index + 1, 0, 0, []
        return unit
