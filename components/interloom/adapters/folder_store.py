"""Artifacts in a folder, in the layout of a DVC remote.

Layout below the root::

    files/md5/ab/cdef...        a shard, read-only
    files/md5/ab/cdef....dir    DVC's tree of an artifact: the folder that its shards form
    manifests/<sha256>.json     our manifest: its presence is the commit
    staging/<unique>/           drafts; locked by the process that writes them
    quarantine/                 objects whose bytes were found to be wrong
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

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
from interloom.adapters.staging import StagedDraft, staging_folder, sweep_staging
from interloom.core.artifacts import (
    ArtifactKind,
    ArtifactRef,
    Manifest,
    Shard,
    tree_json,
    tree_md5,
)
from interloom.core.errors import ConfigError, TransientError
from interloom.ports.store import TREE, ArtifactDraft, Damage, StoredObject

_SAMPLE_BYTES = 64 << 20  # a sampled check hashes about this much of an artifact
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})


class FolderStore(CheckedStore):
    """An ``ArtifactStore`` in a local folder; safe for any number of processes and any kill.

    A shard is hashed once when it is written, and once when this store first reads it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._checked: set[str] = set()  # sha256 of shards that this store has read and found right

    @property
    def url(self) -> str:
        """The folder."""
        return str(self.root)

    def prepare(self) -> None:
        """Make sure that a draft can be begun and that something can be written in it."""
        with self.staging() as folder:
            (folder / "probe").write_bytes(b"interloom")

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder of one's own on the store's disk.

        Raises:
            ConfigError: The store cannot be written.
            TransientError: The disk is full.
        """
        with self._explained(), staging_folder(self.root / "staging") as folder:
            yield folder

    @contextmanager
    def draft(self, kind: ArtifactKind) -> Iterator[ArtifactDraft]:
        """Begin an artifact in a staging folder of its own; leaving without commit removes it.

        Raises:
            ConfigError: The store cannot be written.
            TransientError: The disk is full.
        """
        with self.staging() as folder:

            def keep(manifest: Manifest, files: Mapping[Path, Shard]) -> None:
                for file, shard in files.items():
                    self.keep_object(file, shard)
                self.keep_artifact(manifest, folder)

            yield StagedDraft(kind, folder, keep, self.manifest)

    def manifest_by_id(self, artifact_id: str) -> Manifest:
        """A manifest, its bytes checked against the id."""
        path = self.root / manifest_key(artifact_id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise not_held(self.url, artifact_id) from None
        return checked_manifest(data, artifact_id, str(path))

    def local_path(self, shard: Shard) -> Path:
        """The object's own read-only file, its bytes checked on this store's first read."""
        path = self.object_path(shard.md5)
        is_known = shard.sha256 in self._checked
        if damage := self._damage(shard, every_byte=not is_known):
            raise_damage(damage)
        self._checked.add(shard.sha256)
        return path

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether the artifact was committed; says nothing of its shards' bytes."""
        return self._manifest_path(ref).is_file()

    def admit(
        self, manifest: Manifest, fetch: Callable[[Shard], Path], *, every_byte: bool
    ) -> Sequence[Damage]:
        """Write what is missing or damaged, then the tree, then the manifest."""
        found = self.damages(manifest, every_byte=every_byte)
        with self.staging() as folder:
            for index, damage in enumerate(found):
                if damage.path != TREE:
                    shard = manifest.shard(damage.path)
                    copy = folder / str(index)
                    shutil.copyfile(fetch(shard), copy)
                    self.keep_object(copy, shard)
            self.keep_artifact(manifest, folder)
        return found

    def objects(self) -> Iterator[StoredObject]:
        """Manifests, trees and shards."""
        for below in ("files/md5", "manifests"):
            for path in (self.root / below).rglob("*"):
                with suppress(FileNotFoundError):
                    if path.is_file():
                        key = path.relative_to(self.root).as_posix()
                        found = path.stat()
                        yield StoredObject(key, found.st_size, time.time() - found.st_mtime)

    def remove(self, key: str, *, grace_s: float) -> bool:
        """Remove a file that has not been written lately."""
        path = self.root / key
        try:
            if time.time() - path.stat().st_mtime < grace_s:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def sweep(self, *, grace_s: float) -> int:
        """Remove what killed drafts left behind.

        Args:
            grace_s: A draft is left alone until it is this old, and while its process lives.

        Returns:
            How many drafts were removed.
        """
        return sweep_staging(self.root / "staging", grace_s=grace_s)

    def object_path(self, md5: str) -> Path:
        """Where an object with this md5 (and ``.dir`` for a tree) lies or would lie."""
        return self.root / object_key(md5)

    def keep_object(self, source: Path, shard: Shard) -> None:
        """Move a staged file to its address, unless the same bytes are there already.

        An object with other bytes under that address is moved to ``quarantine/`` first. One with
        the same bytes is made young, so that no clean-up takes it from under us.
        """
        target = self.object_path(shard.md5)
        if target.is_file():
            if _sha256(target) == shard.sha256:
                os.utime(target)
                return
            self.set_aside(target)
        source.chmod(0o444)
        _place(source, target)

    def keep_bytes(self, data: bytes, target: Path, staging: Path) -> None:
        """Write a small object under its address, atomically and durably."""
        if target.is_file() and target.read_bytes() == data:
            os.utime(target)
            return
        source = staging / f".{target.name}.partial"
        with source.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            self.set_aside(target)
        source.chmod(0o444)
        _place(source, target)

    def keep_artifact(self, manifest: Manifest, staging: Path) -> None:
        """Write the tree and then the manifest of shards that are all in place."""
        tree = self.object_path(tree_md5(manifest.shards))
        self.keep_bytes(tree_json(manifest.shards), tree, staging)
        self.keep_bytes(manifest.to_json(), self._manifest_path(manifest.ref), staging)

    def set_aside(self, target: Path) -> None:
        """Move a file with the wrong bytes to ``quarantine/``."""
        folder = self.root / "quarantine"
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            target.replace(folder / f"{target.parent.name}{target.name}-{time.time_ns()}")

    def _manifest_path(self, ref: ArtifactRef) -> Path:
        return self.root / manifest_key(ref.id)

    def find_damages(self, manifest: Manifest, *, every_byte: bool) -> Iterator[Damage]:
        """Damages as they are found, the tree's first."""
        tree = self.object_path(tree_md5(manifest.shards))
        held = tree.read_bytes() if tree.is_file() else None
        if damage := tree_damage(manifest.shards, str(tree), held):
            yield damage
        hashed = frozenset(_sampled(manifest.shards, every_byte=every_byte))
        for shard in shards_by_digest(manifest.shards):
            if damage := self._damage(shard, every_byte=shard.path in hashed):
                yield damage

    def _damage(self, shard: Shard, *, every_byte: bool) -> Damage | None:
        """What is wrong with a shard's file, if anything."""
        path = self.object_path(shard.md5)
        try:
            damage = size_damage(shard, str(path), path.stat().st_size)
            if damage is None and every_byte:
                damage = digest_damage(shard, str(path), _sha256(path))
        except FileNotFoundError:
            return size_damage(shard, str(path), None)
        return damage

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what a full or closed disk means for the store."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise TransientError(
                    f"the store at {self.root} has no space left; free some and run again"
                ) from error
            inside = str(error.filename or "").startswith(str(self.root))
            if error.errno in _CLOSED and inside:
                raise ConfigError(
                    f"the store at {self.root} cannot be written: {error.strerror}: "
                    f"{error.filename}; check its owner, or set INTERLOOM_STORE_ROOT"
                ) from error
            raise


def _sampled(shards: Sequence[Shard], *, every_byte: bool) -> Iterator[str]:
    """The paths of the shards whose bytes a check hashes: all, or the first by digest."""
    num_bytes = _SAMPLE_BYTES
    for shard in shards_by_digest(shards):
        if not every_byte and num_bytes < 0:
            return
        yield shard.path
        num_bytes -= shard.num_bytes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(source: Path, target: Path) -> None:
    """Rename into place and make the name durable."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
