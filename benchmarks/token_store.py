"""Reading tokens: Interloom's store against Megatron's indexed dataset and MosaicML's streaming.

The same documents, with lengths like those of web text, are copied into rows: one by one, in order
and in a random order; and as a training run reads them, whole rows of packed documents in a random
order, which Interloom stores as such and the others gather. Interloom and Megatron read the very
same files, which each side wrote once: they must be equal byte by byte. What counts is the time of
the processor, since all is in the page cache.

Megatron-core is in the bench extra. MosaicML's streaming asks for versions that exclude ours, so
it is measured where it can be imported, and named as left out elsewhere:

    pip install --no-deps --target PEERS mosaicml-streaming catalogue xxhash zstd python-snappy
    PYTHONPATH=PEERS python benchmarks/token_store.py
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from _sides import OURS, show, spread
from numpy.typing import NDArray

from interloom.mixture.indexed import IndexedTokens, write_index
from interloom.mixture.packing import pack_best_fit

NUM_DOCUMENTS = 40_000
LONGEST = 4096  # and the length of a row
TURNS = 9
STREAMED = 0.1  # of what the others read in a turn; it is slow
MEGATRON, STREAMING = "megatron", "mosaicml-streaming"

Row = NDArray[np.int32]
Read = Callable[[int, Row], int]
"""Puts a document into a row; gives its length."""


def documents() -> list[NDArray[np.int32]]:
    """Documents of random tokens."""
    rng = np.random.Generator(np.random.Philox(7))
    lengths = np.clip(rng.lognormal(6.0, 1.0, NUM_DOCUMENTS), 8, LONGEST).astype(np.int64)
    return [rng.integers(0, 168_000, length, dtype=np.int32) for length in lengths]


def write_ours(
    held: Sequence[NDArray[np.int32]], bounds: NDArray[np.int64], path: Path
) -> IndexedTokens:
    """Tokens back to back, and the index."""
    with path.with_suffix(".bin").open("wb") as file:
        for one in held:
            file.write(one.astype("<i4").tobytes())
    write_index(path.with_suffix(".idx"), np.array([len(one) for one in held]), bounds)
    return IndexedTokens(path.with_suffix(".bin"), path.with_suffix(".idx"))


def write_theirs(held: Sequence[NDArray[np.int32]], folder: Path) -> None:
    """By Megatron's own builder."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(folder / "theirs.bin"), dtype=np.int32)
    for one in held:
        builder.add_document(one, [len(one)])
    builder.finalize(str(folder / "theirs.idx"))


def tokens_a_second(read: Read, order: Sequence[int]) -> float:
    """Read these, in this order, each into the same row."""
    row = np.empty(LONGEST, np.int32)
    num_tokens = 0
    started_s = time.process_time()
    for number in order:
        num_tokens += read(number, row)
    return num_tokens / (time.process_time() - started_s)


def packed(held: Sequence[NDArray[np.int32]]) -> tuple[list[int], NDArray[np.int64]]:
    """Documents in the order of the rows that best fit gives them, and each row's first."""
    packing = pack_best_fit([len(one) for one in held], LONGEST)
    order = np.lexsort((packing.starts_P, packing.rows_P))
    return order.tolist(), np.searchsorted(packing.rows_P[order], np.arange(packing.num_rows + 1))


def gathered(read: Read, bounds: Sequence[int]) -> Read:
    """Rows from a reader of documents."""

    def read_row(number: int, row: Row) -> int:
        start = 0
        for document in range(bounds[number], bounds[number + 1]):
            start += read(document, row[start:])
        return start

    return read_row


def whole(held: IndexedTokens) -> Read:
    """Rows as Interloom's training reads them."""

    def read_row(number: int, row: Row) -> int:
        first, last = held.first_sequences_D[number : number + 2].tolist()
        start, stop = held.first_token(first), held.first_token(last)
        held.tokens_into(start, stop, row)
        return stop - start

    return read_row


def megatron(folder: Path) -> Read:
    """Megatron's reader, memory-mapped, as its training uses it."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    held = IndexedDataset(str(folder / "theirs"))

    def read(number: int, row: Row) -> int:
        tokens = held[number]
        row[: len(tokens)] = tokens
        return len(tokens)

    return read


def streaming(held: Sequence[NDArray[np.int32]], folder: Path) -> Read | None:
    """MosaicML's reader of local shards; None where it is not installed."""
    try:
        from streaming import MDSWriter, StreamingDataset
    except ImportError:
        return None
    with MDSWriter(out=str(folder / "mds"), columns={"tokens": "ndarray:int32"}) as writer:
        for one in held:
            writer.write({"tokens": one})
    dataset = StreamingDataset(local=str(folder / "mds"), batch_size=1, shuffle=False)

    def read(number: int, row: Row) -> int:
        tokens = dataset[number]["tokens"]
        row[: len(tokens)] = tokens
        return len(tokens)

    return read


def compare(
    name: str, order: list[int], ours: Read, peers: Mapping[str, Read]
) -> dict[str, object]:
    """All sides in turns."""
    rates: dict[str, list[float]] = {OURS: []} | {peer: [] for peer in peers}
    for _ in range(TURNS):
        rates[OURS].append(tokens_a_second(ours, order))
        for peer, read in peers.items():
            held = order[: int(STREAMED * len(order))] if peer == STREAMING else order
            rates[peer].append(tokens_a_second(read, held))
    ours_a_second = statistics.median(rates[OURS])
    ratios = {
        f"over {peer}": round(ours_a_second / statistics.median(rates[peer]), 2) for peer in peers
    }
    sides = {side: spread(values) for side, values in rates.items()}
    return {"reading": name} | sides | ratios | {"ratio": ratios[f"over {MEGATRON}"]}


def main() -> None:
    """Print one line a way of reading, then the figure as JSON; its ratio is over Megatron's."""
    warnings.simplefilter("ignore")
    drawn = documents()
    order, bounds = packed(drawn)
    held = [drawn[number] for number in order]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        single = write_ours(held, np.arange(len(held) + 1), folder / "ours")
        rows = write_ours(held, bounds, folder / "rows")
        write_theirs(held, folder)
        for end in ("bin", "idx"):
            if (folder / f"ours.{end}").read_bytes() != (folder / f"theirs.{end}").read_bytes():
                raise SystemExit(f"the .{end} files of the two writers differ")
        peers = {MEGATRON: megatron(folder)}
        if (streamed := streaming(held, folder)) is not None:
            peers[STREAMING] = streamed
        else:
            print(f"{STREAMING} is not installed: left out")
        gathering = {peer: gathered(read, bounds.tolist()) for peer, read in peers.items()}
        require_equal(held, single.sequence_into, peers)
        shuffled = np.random.Generator(np.random.Philox(8)).permutation
        configs = [
            compare("documents in order", list(range(len(held))), single.sequence_into, peers),
            compare("documents", shuffled(len(held)).tolist(), single.sequence_into, peers),
            compare("rows", shuffled(len(bounds) - 1).tolist(), whole(rows), gathering),
        ]
    show("token_store", "tokens/s", configs)


def require_equal(held: Sequence[NDArray[np.int32]], ours: Read, peers: Mapping[str, Read]) -> None:
    """Every side gives the document that was written."""
    for number in (0, 17, len(held) - 1):
        for read in (ours, *peers.values()):
            row = np.zeros(LONGEST, np.int32)
            if row[: read(number, row)].tolist() != held[number].tolist():
                raise SystemExit(f"document {number} differs")


if __name__ == "__main__":
    main()
