"""Tables of artifacts: what is written is read, whatever the shards."""

import pytest

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.corpora.ordered import in_order
from interloom.corpora.tables import CLOZE, SPEECH_TOKENS, Row, batched, read_table, write_table
from interloom.testing.store import MemoryStore


def pair(index: int, split: str) -> dict[str, str]:
    """A row of ``cloze``."""
    return {
        "id": f"p{index}",
        "split": split,
        "group": "story",
        "context": "c",
        "right": "r",
        "wrong": "w",
    }


def written(store: MemoryStore, rows: list[dict[str, str]], rows_per_shard: int) -> ArtifactRef:
    with store.draft(ArtifactKind.TASKS) as draft:
        assert write_table(draft, "cloze", CLOZE, rows, rows_per_shard=rows_per_shard) == len(rows)
        return draft.commit()


@pytest.mark.parametrize("rows_per_shard", [1, 2, 3, 100])
def test_rows_keep_their_order_within_a_split(rows_per_shard: int) -> None:
    store = MemoryStore()
    rows = [pair(index, "heldout" if index % 3 == 0 else "train") for index in range(10)]

    ref = written(store, rows, rows_per_shard)

    for split in ("train", "heldout"):
        read = list(read_table(store, ref, "cloze", split=split))
        assert read == [row for row in rows if row["split"] == split]
    assert store.manifest(ref).count("rows") == 10


def test_equal_rows_give_the_same_artifact() -> None:
    rows = [pair(index, "train") for index in range(5)]

    assert written(MemoryStore(), rows, 2) == written(MemoryStore(), rows, 2)


def test_a_table_without_rows_can_be_read() -> None:
    store = MemoryStore()

    ref = written(store, [], 4)

    assert list(read_table(store, ref, "cloze")) == []
    assert store.manifest(ref).count("rows") == 0


def test_columns_can_be_chosen() -> None:
    store = MemoryStore()
    ref = written(store, [pair(0, "train")], 4)

    assert list(read_table(store, ref, "cloze", columns=["id"])) == [{"id": "p0"}]


def test_shards_count_samples_and_tokens() -> None:
    store = MemoryStore()
    row: Row = {
        "id": "u",
        "split": "train",
        "speaker": "ann",
        "text": "hello",
        "codes": [1, 2, 3],
        "num_samples": 3840,
        "words": [],
        "source": "s",
        "licence": "CC0-1.0",
        "facts": [],
    }

    with store.draft(ArtifactKind.SPEECH_TOKENS) as draft:
        write_table(draft, "tokens", SPEECH_TOKENS, [row, {**row, "id": "v"}])
        manifest = store.manifest(draft.commit())

    assert manifest.count("samples") == 7680
    assert manifest.count("speech_tokens") == 6


def test_batches_hold_what_is_left() -> None:
    rows = [{"id": str(index)} for index in range(5)]

    assert [len(batch) for batch in batched(iter(rows), 2)] == [2, 2, 1]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_work_comes_back_in_order(num_threads: int) -> None:
    squares = in_order(lambda number: number**2, range(20), num_threads=num_threads, ahead=4)

    assert list(squares) == [number**2 for number in range(20)]


def test_work_on_endless_items_can_be_left() -> None:
    from itertools import count

    squares = in_order(lambda number: number**2, count(), num_threads=2, ahead=4)

    assert [next(squares) for _ in range(3)] == [0, 1, 4]
    squares.close()
