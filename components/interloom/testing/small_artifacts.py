"""Artifacts of a few bytes in a store of S3: written, and found whole."""

from collections.abc import Mapping
from pathlib import Path

from interloom.adapters.stores import open_store_at
from interloom.config.s3 import S3Settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.ports.store import ArtifactStore
from interloom.testing.s3_faults import FaultyWay
from interloom.testing.s3_server import BUCKET, S3Server

KIND = ArtifactKind.TEXT_CORPUS


def impatient(server: S3Server, way: FaultyWay | None = None, **changes: object) -> S3Settings:
    """A server's settings for tests: it is given up soon, and may be behind a faulty way."""
    known: dict[str, object] = {"timeout_s": 3.0, "patience_s": 30.0}
    if way is not None:
        known["endpoint"] = way.endpoint
    return server.settings(**(known | changes))


def store_at(prefix: str, settings: S3Settings, cache: Path) -> ArtifactStore:
    """A store in a server's bucket, with a cache of its own."""
    return open_store_at(f"s3://{BUCKET}/{prefix}", settings, cache_folder=cache)


def publish(store: ArtifactStore, shards: Mapping[str, bytes]) -> ArtifactRef:
    """An artifact with these shards."""
    with store.draft(KIND) as draft:
        for path, data in shards.items():
            with draft.shard(path) as shard:
                shard.path.write_bytes(data)
        return draft.commit(licences=["CC0-1.0"])


def assert_whole(store: ArtifactStore, ref: ArtifactRef, shards: Mapping[str, bytes]) -> None:
    """The artifact is what it was, for every look at it."""
    manifest = store.manifest(ref)
    assert store.damages(manifest, every_byte=True) == []
    assert {s.path: store.local_path(s).read_bytes() for s in manifest.shards} == dict(shards)
