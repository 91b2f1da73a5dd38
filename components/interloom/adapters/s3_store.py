"""Artifacts in an S3 bucket, in the layout of a DVC remote, with a cache of what was read.

Below the prefix lie ``files/md5/``, ``manifests/`` and ``quarantine/``, as in a folder store, and
``probes/``, where it is tried whether the server keeps what publishing relies on. Drafts and the
cache lie in a local folder store. Shards pass in blocks and parts: never a data set in memory.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO
from uuid import uuid4

from interloom.adapters.checked_store import (
    CheckedStore,
    checked_manifest,
    digest_damage,
    manifest_key,
    not_held,
    object_key,
    raise_damage,
    shards_by_digest,
    size_damage,
    tree_damage,
)
from interloom.adapters.folder_store import FolderStore
from interloom.adapters.s3_bucket import Head, S3Bucket
from interloom.adapters.staging import Digests, StagedDraft
from interloom.core.artifacts import (
    ArtifactKind,
    ArtifactRef,
    Manifest,
    Shard,
    tree_json,
    tree_md5,
)
from interloom.core.errors import ConfigError, DataError, MissingError
from interloom.ports.store import TREE, ArtifactDraft, Damage, StoredObject

_LOG = logging.getLogger(__name__)
_MD5 = re.compile(r"[0-9a-f]{32}")
_NUM_THREADS = 4
_NUM_RACERS = 8
_SAMPLE_BYTES = 16 << 20  # what a sampled check of an artifact fetches and hashes
_NUM_TRIES = 3  # of a transfer whose bytes were wrong
_FRESH_S = 12 * 3600.0  # an object this young may be kept as it is; an older one is written again
_UNTOUCHED_S = 3600.0  # what was used since then stays in the cache


class S3Store(CheckedStore):
    """An ``ArtifactStore`` in a bucket; safe for any number of machines and any kill."""

    def __init__(
        self,
        bucket: S3Bucket,
        prefix: str,
        cache: FolderStore,
        *,
        cache_bytes: int = 100 << 30,
        needs_conditional_writes: bool = True,
    ) -> None:
        """Put a store below a prefix.

        Args:
            bucket: Where.
            prefix: Without slashes at its ends; may be empty.
            cache: A folder of this machine for what was read or is being written.
            cache_bytes: Beyond this the cache lets go of what was not used for longest.
            needs_conditional_writes: Refuse a server that lets two writers win; otherwise the
                catalog's row alone decides.
        """
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._cache = cache
        self._cache_bytes = cache_bytes
        self._needs_conditional_writes = needs_conditional_writes
        self._is_ready = False
        self._num_cached: int | None = None  # bytes; None until it was counted
        self._lock = Lock()

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket.name}/{self._prefix}".rstrip("/")

    def prepare(self) -> None:
        """Try the cache, the bucket, the credentials and conditional writes; once a process.

        Raises:
            ConfigError: One of them does not do.
            TransientError: The server does not answer.
        """
        with self._lock:
            if self._is_ready:
                return
            self._cache.prepare()
            if not self._bucket.exists():
                raise ConfigError(
                    f"{self._bucket.where} refuses: there is no such bucket; make it, or check "
                    "INTERLOOM_STORE_ROOT"
                )
            self._probe()
            self._is_ready = True

    @contextmanager
    def draft(self, kind: ArtifactKind) -> Iterator[ArtifactDraft]:
        """Begin an artifact in the cache's folder; leaving without commit removes it."""
        self.prepare()
        with self._cache.staging() as folder:

            def keep(manifest: Manifest, files: Mapping[Path, Shard]) -> None:
                with ThreadPoolExecutor(_NUM_THREADS) as pool:
                    list(pool.map(self._keep_object, files, files.values()))
                self._keep_artifact(manifest)
                for file, shard in files.items():
                    self._cache.keep_object(file, shard)
                self._make_room(sum(shard.num_bytes for shard in files.values()))

            yield StagedDraft(kind, folder, keep, self.manifest)

    def manifest_by_id(self, artifact_id: str) -> Manifest:
        """A manifest, its bytes checked against the id."""
        key = manifest_key(artifact_id)
        data = self._read(key, lambda data: hashlib.sha256(data).hexdigest() == artifact_id)
        if data is None:
            raise not_held(self.url, artifact_id)
        return checked_manifest(data, artifact_id, f"{self.url}/{key}")

    def local_path(self, shard: Shard) -> Path:
        """The shard's file in the cache; fetched and checked if it is not there."""
        with suppress(MissingError, DataError):
            path = self._cache.local_path(shard)
            os.utime(path)  # the cache lets go of what was not used for longest
            return path
        with self._cache.staging() as folder:
            target = folder / "shard"
            if damage := self._fetch(shard, target):
                raise_damage(damage)
            self._cache.keep_object(target, shard)
        self._make_room(shard.num_bytes)
        return self._cache.local_path(shard)

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether the artifact was committed; says nothing of its shards' bytes."""
        return self._bucket.head(self._prefix + manifest_key(ref.id)) is not None

    def admit(
        self, manifest: Manifest, fetch: Callable[[Shard], Path], *, every_byte: bool
    ) -> Sequence[Damage]:
        """Write what is missing or damaged, then the tree, then the manifest."""
        self.prepare()
        found = self.damages(manifest, every_byte=every_byte)
        for damage in found:
            if damage.path != TREE:
                shard = manifest.shard(damage.path)
                self._keep_object(self._copy_of(shard, fetch), shard)
        self._keep_artifact(manifest)
        return found

    def objects(self) -> Iterator[StoredObject]:
        """Manifests, trees and shards."""
        for below in ("files/md5/", "manifests/"):
            for found in self._bucket.list(self._prefix + below):
                key = found.key.removeprefix(self._prefix)
                yield StoredObject(key, found.num_bytes, found.age_s)

    def remove(self, key: str, *, grace_s: float) -> bool:
        """Remove an object that has not been written lately."""
        found = self._bucket.head(self._prefix + key)
        if found is None or found.age_s < grace_s:
            return False
        self._bucket.remove(self._prefix + key)
        return True

    def sweep(self, *, grace_s: float) -> int:
        """Remove what killed drafts left on this machine and, of long shards, on the server."""
        removed = self._cache.sweep(grace_s=grace_s)
        try:
            return removed + self._bucket.end_uploads(f"{self._prefix}files/md5/", age_s=grace_s)
        except ConfigError as error:  # not every server lists them, nor may everyone ask
            _LOG.warning("%s; a lifecycle rule of the bucket can end uploads that were left", error)
            return removed

    def _copy_of(self, shard: Shard, fetch: Callable[[Shard], Path]) -> Path:
        """Right bytes for an object that is not: from the cache of this machine, or fetched."""
        with suppress(MissingError, DataError):
            return self._cache.local_path(shard)
        return fetch(shard)

    def _keep_object(self, source: Path, shard: Shard) -> None:
        """Write a shard, unless the same bytes were written there lately."""
        key = self._prefix + object_key(shard.md5)
        found = self._bucket.head(key)
        if found is not None:
            if found.age_s < _FRESH_S and self._damage(shard, every_byte=True) is None:
                return
            self._set_aside(key, found, shard)
        self._bucket.write_file(key, source, num_bytes=shard.num_bytes)

    def _keep_artifact(self, manifest: Manifest) -> None:
        """Write the tree and then, unless it is there, the manifest."""
        tree, data = tree_md5(manifest.shards), tree_json(manifest.shards)
        self._bucket.write(self._prefix + object_key(tree), data)
        below, data = manifest_key(manifest.ref.id), manifest.to_json()
        key = self._prefix + below
        if not self._needs_conditional_writes:
            self._bucket.write(key, data)
            return
        if self._bucket.write_new(key, data):
            return
        if self._read(below, lambda found: found == data) not in {None, data}:
            self._bucket.copy(key, f"{self._prefix}quarantine/{below.rpartition('/')[2]}")
        self._bucket.write(key, data)  # also makes it young, so that no clean-up takes it

    def _read(self, key: str, is_right: Callable[[bytes], bool]) -> bytes | None:
        """A small object; what looks wrong is read again: it may have been the way."""
        for _ in range(_NUM_TRIES):
            data = self._bucket.read(self._prefix + key)
            if data is None or is_right(data):
                break
        return data

    def _set_aside(self, key: str, found: Head, shard: Shard) -> None:
        """Keep a copy of an object that looks wrong before it is written anew."""
        is_plain = _MD5.fullmatch(found.etag) is not None
        if found.num_bytes != shard.num_bytes or (is_plain and found.etag != shard.md5):
            self._bucket.copy(key, f"{self._prefix}quarantine/{shard.md5}-{found.etag}")

    def find_damages(self, manifest: Manifest, *, every_byte: bool) -> Iterator[Damage]:
        """Damages of what the bucket holds, whatever the cache has; the tree's first."""
        key = object_key(tree_md5(manifest.shards))
        tree = self._read(key, lambda data: data == tree_json(manifest.shards))
        if damage := tree_damage(manifest.shards, f"{self.url}/{key}", tree):
            yield damage
        ordered = shards_by_digest(manifest.shards)
        hashed = frozenset(shard.path for shard in (ordered if every_byte else _sample(ordered)))
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            found = pool.map(lambda s: self._damage(s, every_byte=s.path in hashed), ordered)
            yield from (damage for damage in found if damage is not None)

    def _damage(self, shard: Shard, *, every_byte: bool) -> Damage | None:
        """What is wrong with a shard's object, if anything.

        A tag that looks like an md5 but is not the shard's makes us read the bytes.
        """
        if every_byte:
            return self._fetch(shard, None)
        found = self._bucket.head(self._prefix + object_key(shard.md5))
        if found is not None and _MD5.fullmatch(found.etag) and found.etag != shard.md5:
            return self._fetch(shard, None)
        return size_damage(shard, self._address(shard), found.num_bytes if found else None)

    def _fetch(self, shard: Shard, target: Path | None) -> Damage | None:
        """Read an object and hash it, into a file or into nothing; what is wrong with it, if so.

        Bytes that are wrong are fetched again: it may have been the way, not the store.
        """
        key = object_key(shard.md5)
        for _ in range(_NUM_TRIES):
            with Path(target or os.devnull).open("wb") as file:
                digests = Digests()

                def take(block: bytes, digests: Digests = digests, file: BinaryIO = file) -> None:
                    digests.update(block)
                    file.write(block)

                found = self._bucket.stream(self._prefix + key, take, shard.num_bytes)
            damage = size_damage(shard, self._address(shard), found)
            if damage is not None:
                return damage
            damage = digest_damage(shard, self._address(shard), digests.sha256)
            if damage is None:
                return None
        return damage

    def _address(self, shard: Shard) -> str:
        return f"{self.url}/{object_key(shard.md5)}"

    def _probe(self) -> None:
        """Learn what the server's tags are, and race for a new object: one writer must win.

        Raises:
            ConfigError: None did, or several.
        """
        # This one stays, so that the prefix is never emptied and made again.
        self._bucket.learn_tags(f"{self._prefix}probes/keep")
        if not self._needs_conditional_writes:
            return
        key = f"{self._prefix}probes/{uuid4().hex}"
        with ThreadPoolExecutor(_NUM_RACERS) as pool:
            racers = [b"%d" % number for number in range(_NUM_RACERS)]
            num_winners = sum(pool.map(lambda data: self._bucket.write_new(key, data), racers))
        self._bucket.remove(key)
        if num_winners > 1:
            raise ConfigError(
                f"{self._bucket.where} does not keep conditional writes: of {_NUM_RACERS} writers "
                f"of one new object {num_winners} were told that they were first; use another "
                "server, or set INTERLOOM_S3_CONDITIONAL_WRITES=false to let the catalog decide"
            )

    def _make_room(self, num_bytes: int) -> None:
        """Let the cache go of what was not used for longest, if it has grown too large.

        Args:
            num_bytes: What was just put there.
        """
        with self._lock:
            self._num_cached = None if self._num_cached is None else self._num_cached + num_bytes
            if self._num_cached is not None and self._num_cached <= self._cache_bytes:
                return
            found = []
            for kept in self._cache.objects():
                path = self._cache.root / kept.key
                with suppress(FileNotFoundError):
                    found.append((path.stat().st_mtime, kept.num_bytes, path))
            total = sum(size for _, size, _ in found)
            for used, size, path in sorted(found):
                if total <= self._cache_bytes or time.time() - used < _UNTOUCHED_S:
                    break
                path.unlink(missing_ok=True)
                total -= size
            self._num_cached = total


def _sample(ordered: Sequence[Shard]) -> Iterator[Shard]:
    """The shards whose bytes a sampled check fetches: the first by digest that fit its budget."""
    budget = _SAMPLE_BYTES
    for shard in ordered:
        if shard.num_bytes <= budget:
            budget -= shard.num_bytes
            yield shard
