import hashlib
import json

import pytest

from interloom.core.artifacts import (
    ArtifactKind,
    ArtifactRef,
    Manifest,
    Shard,
    parse_ref,
    tree_json,
    tree_md5,
)
from interloom.core.errors import DataError


def shard(path: str, content: bytes = b"x", **counts: int) -> Shard:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Shard(path, hashlib.sha256(content).hexdigest(), md5, len(content), counts)


def test_a_manifest_survives_json() -> None:
    parent = Manifest(ArtifactKind.TEXT_CORPUS, (shard("a"),)).ref
    manifest = Manifest(
        ArtifactKind.SPEECH_TOKENS,
        (shard("tokens/train-00000.parquet", rows=3),),
        parents=(parent,),
        licences=("Apache-2.0",),
        facts={"frame_rate_hz": "25/2"},
        consents=("research",),
    )

    again = Manifest.from_json(manifest.to_json())

    assert again == manifest
    assert again.ref == manifest.ref


def test_a_manifest_in_which_nobody_is_heard_says_nothing_of_consent() -> None:
    manifest = Manifest(ArtifactKind.TASKS, (shard("a"),))

    assert b"consents" not in manifest.to_json()
    assert Manifest.from_json(manifest.to_json()).consents == ()


def test_the_id_does_not_depend_on_the_order_of_shards_or_facts() -> None:
    one = Manifest(ArtifactKind.TASKS, (shard("a"), shard("b")), facts={"x": 1, "y": 2})
    other = Manifest(ArtifactKind.TASKS, (shard("b"), shard("a")), facts={"y": 2, "x": 1})

    assert one.ref == other.ref


def test_the_id_depends_on_every_byte_of_content() -> None:
    one = Manifest(ArtifactKind.TASKS, (shard("a", b"x"),))
    other = Manifest(ArtifactKind.TASKS, (shard("a", b"y"),))

    assert one.ref != other.ref


def test_counts_add_up_over_shards() -> None:
    manifest = Manifest(ArtifactKind.TASKS, (shard("a", rows=2), shard("b", rows=3)))

    assert manifest.count("rows") == 5
    assert manifest.count("spans") == 0


def test_a_missing_shard_is_named_with_those_there_are() -> None:
    manifest = Manifest(ArtifactKind.TASKS, (shard("cloze/train-00000.parquet"),))

    with pytest.raises(DataError, match="no shard 'weights'; it holds: cloze/"):
        manifest.shard("weights")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b"])
def test_a_shard_cannot_leave_its_artifact(path: str) -> None:
    with pytest.raises(DataError, match="must be relative and stay in its artifact"):
        shard(path)


def test_bytes_that_are_no_manifest_are_refused() -> None:
    with pytest.raises(DataError, match="not a manifest"):
        Manifest.from_json(b'{"kind": "tasks"}')


def test_a_reference_is_read_from_its_text() -> None:
    ref = Manifest(ArtifactKind.TASKS, ()).ref

    assert parse_ref(f"tasks:{ref.id}") == ref


def test_a_reference_needs_a_whole_digest() -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits, got 'abc'"):
        ArtifactRef(ArtifactKind.TASKS, "abc")


def test_the_tree_is_dvcs_own() -> None:
    shards = (shard("b/c", b"1"), shard("a", b"2"))

    entries = json.loads(tree_json(shards))

    assert [entry["relpath"] for entry in entries] == ["a", "b/c"]
    assert tree_md5(shards).endswith(".dir")
