from dataclasses import replace

import pytest

from interloom.core.artifacts import ArtifactKind, Manifest, Shard
from interloom.quality.manifests import EXPECTATIONS, SUITE, judge_manifest, summarise
from interloom.testing.gate import PlainGate
from interloom.testing.store import MemoryStore

SHARD = Shard("t/train-00000.parquet", "a" * 64, "b" * 32, 10, {"rows": 2, "spans": 3})
CARD = Shard("card.json", "a" * 64, "b" * 32, 5)
GOOD = Manifest(ArtifactKind.INTERLEAVED, (CARD, SHARD), licences=("CC0-1.0",))


def failed(manifest: Manifest, stored: tuple[int, ...] = (5, 10)) -> list[str]:
    ids = [shard.path for shard in manifest.shards]
    verdicts = PlainGate().judge(SUITE, EXPECTATIONS, summarise(manifest, stored), ids)
    return [verdict.expectation for verdict in verdicts if not verdict.success]


def test_a_good_manifest_passes() -> None:
    assert failed(GOOD) == []


@pytest.mark.parametrize(
    ("manifest", "stored", "claim"),
    [
        (replace(GOOD, licences=()), (5, 10), "every licence is named"),
        (GOOD, (5, 9), "the stored bytes are as many as the manifest says"),
        (
            replace(GOOD, shards=(CARD, replace(SHARD, counts={"rows": 0}))),
            (5, 10),
            "no shard is without rows",
        ),
        (
            replace(GOOD, shards=(CARD, replace(SHARD, counts={"rows": 1, "spans": -1}))),
            (5, 10),
            "no count is negative",
        ),
        (replace(GOOD, shards=(replace(CARD, num_bytes=0), SHARD)), (0, 10), "no shard is empty"),
    ],
)
def test_each_fault_of_a_manifest_is_seen(
    manifest: Manifest, stored: tuple[int, ...], claim: str
) -> None:
    assert failed(manifest, stored) == [claim]


def test_an_artifact_without_a_licence_is_named_by_its_shards() -> None:
    store = MemoryStore()
    with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        with draft.shard("documents/train-00000.parquet") as shard:
            shard.path.write_bytes(b"rows")
            shard.count(rows=1)
        ref = draft.commit()

    verdicts = judge_manifest(ref, store=store, gate=PlainGate())

    broken = [verdict for verdict in verdicts if not verdict.success]
    assert [verdict.expectation for verdict in broken] == ["every licence is named"]
    assert broken[0].suite == "manifest of text_corpus"
    assert broken[0].failed_rows == ("documents/train-00000.parquet",)
