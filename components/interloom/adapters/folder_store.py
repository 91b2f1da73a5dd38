"""Artifacts in a folder, in the layout of a DVC remote.

Layout below the root::

    files/md5/ab/cdef...        a shard, read-only
    files/md5/ab/cdef....dir    DVC's tree of an artifact: the folder that its shards form
    manifests/<sha256>.json     our manifest: its presence is the commit
    staging/<unique>/           drafts; locked by the process that writes them
    quarantine/                 objects whose bytes were found to be wrong
"""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from interloom.core.artifacts import (
    ArtifactKind,
    ArtifactRef,
    Manifest,
    Shard,
    tree_json,
    tree_md5,
)
from interloom.core.errors import ConfigError, DataError, MissingError, TransientError
from interloom.ports.store import ArtifactDraft, ShardDraft

_BLOCK_BYTES = 1 << 20
_SAMPLE_BYTES = 64 << 20  # a sampled check hashes about this much of an artifact
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})


class FolderStore:
    """An ``ArtifactStore`` in a local folder; safe for any number of processes and any kill.

    A shard is hashed once when it is written, and once when this store first reads it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._checked: set[str] = set()  # sha256 of shards that this store has read and found right

    @contextmanager
    def draft(self, kind: ArtifactKind) -> Iterator[ArtifactDraft]:
        """Begin an artifact in a staging folder of its own; leaving without commit removes it.

        Raises:
            ConfigError: The store cannot be written.
            TransientError: The disk is full.
        """
        with self._explained():
            staging = self._staging_folder()
        lock = os.open(staging, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._explained():
                yield _FolderDraft(self, kind, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The manifest behind ``ref``, its bytes checked against the id."""
        path = self._manifest_path(ref)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise MissingError(
                f"the store at {self.root} does not hold {ref}; "
                "run the stage that makes it, or check INTERLOOM_STORE_ROOT"
            ) from None
        digest = hashlib.sha256(data).hexdigest()
        if digest != ref.id:
            raise DataError(f"the manifest {path} is corrupt: sha256 {digest}, expected {ref.id}")
        manifest = Manifest.from_json(data)
        if manifest.kind is not ref.kind:
            raise DataError(f"{ref} is asked for as {ref.kind}, but it holds {manifest.kind}")
        return manifest

    def local_path(self, shard: Shard) -> Path:
        """The object's own read-only file, its bytes checked on this store's first read."""
        path = self._sized(shard)
        if shard.sha256 not in self._checked:
            _check_bytes(path, shard)
            self._checked.add(shard.sha256)
        return path

    def open_shard(self, shard: Shard) -> AbstractContextManager[BinaryIO]:
        """Stream a shard from its file."""
        return self.local_path(shard).open("rb")

    def verify(self, ref: ArtifactRef, *, every_byte: bool) -> None:
        """Check that every shard is there and of its size, and hash all or a sample of them."""
        shards = self.manifest(ref).shards
        files = [(shard, self._sized(shard)) for shard in shards_by_digest(shards)]
        budget = sum(shard.num_bytes for shard in shards) if every_byte else _SAMPLE_BYTES
        for shard, path in files:
            if budget < 0:
                return
            _check_bytes(path, shard)
            budget -= shard.num_bytes

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether the artifact was committed; says nothing of its shards' bytes."""
        return self._manifest_path(ref).is_file()

    def sweep(self, *, grace_s: float) -> int:
        """Remove what killed drafts left behind.

        Args:
            grace_s: A draft is left alone until it is this old, and while its process lives.

        Returns:
            How many drafts were removed.
        """
        removed = 0
        for folder in (self.root / "staging").glob("*"):
            if time.time() - folder.stat().st_mtime >= grace_s and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
        return removed

    def object_path(self, md5: str) -> Path:
        """Where an object with this md5 (and ``.dir`` for a tree) lies or would lie."""
        return self.root / "files" / "md5" / md5[:2] / md5[2:]

    def keep_object(self, source: Path, shard: Shard) -> None:
        """Move a staged file to its address, unless the same bytes are there already.

        An object with other bytes under that address is moved to ``quarantine/`` first.
        """
        target = self.object_path(shard.md5)
        if target.is_file():
            if _sha256(target) == shard.sha256:
                return
            self._set_aside(target)
        source.chmod(0o444)
        _place(source, target)

    def keep_bytes(self, data: bytes, target: Path, staging: Path) -> None:
        """Write a small object under its address, atomically and durably."""
        if target.is_file() and target.read_bytes() == data:
            return
        source = staging / f".{target.name}.partial"
        with source.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            self._set_aside(target)
        source.chmod(0o444)
        _place(source, target)

    def keep_artifact(self, manifest: Manifest, staging: Path) -> None:
        """Write the tree and then the manifest of shards that are all in place."""
        tree = self.object_path(tree_md5(manifest.shards))
        self.keep_bytes(tree_json(manifest.shards), tree, staging)
        self.keep_bytes(manifest.to_json(), self._manifest_path(manifest.ref), staging)

    def _manifest_path(self, ref: ArtifactRef) -> Path:
        return self.root / "manifests" / f"{ref.id}.json"

    def _sized(self, shard: Shard) -> Path:
        """The shard's file, after a look at its size only."""
        path = self.object_path(shard.md5)
        try:
            num_bytes = path.stat().st_size
        except FileNotFoundError:
            raise MissingError(
                f"shard {shard.path!r} is not in the store: {path} does not exist; "
                "run its stage again to make it anew"
            ) from None
        if num_bytes != shard.num_bytes:
            raise DataError(
                f"shard {shard.path!r} is corrupt: {path} has {num_bytes} bytes, "
                f"expected {shard.num_bytes}; run its stage again to make it anew"
            )
        return path

    def _staging_folder(self) -> Path:
        parent = self.root / "staging"
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))

    def _set_aside(self, target: Path) -> None:
        folder = self.root / "quarantine"
        folder.mkdir(exist_ok=True)
        target.replace(folder / f"{target.parent.name}{target.name}-{time.time_ns()}")

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


class _FolderDraft:
    """An artifact in a staging folder."""

    def __init__(self, store: FolderStore, kind: ArtifactKind, staging: Path) -> None:
        self._store = store
        self._kind = kind
        self._staging = staging
        self._files: dict[Path, Shard] = {}

    @contextmanager
    def shard(self, path: str) -> Iterator[ShardDraft]:
        """Open a shard; hash it when it is left without an error.

        Raises:
            DataError: The path is not relative, is taken, or nothing was written.
        """
        Shard(path, sha256="", md5="", num_bytes=0)  # refuses a path that leaves the artifact
        if any(shard.path == path for shard in self._files.values()):
            raise DataError(f"shard {path!r} is written twice in one {self._kind}")
        folder = self._staging / str(len(self._files))
        folder.mkdir()
        draft = _FolderShard(folder / Path(path).name)
        yield draft
        if not draft.path.is_file() or draft.path.is_symlink():
            raise DataError(f"shard {path!r} was opened, but {draft.path.name} was not written")
        sha256, md5, num_bytes = _digests_and_sync(draft.path)
        self._files[draft.path] = Shard(path, sha256, md5, num_bytes, draft.counts)

    def commit(
        self,
        *,
        parents: Sequence[ArtifactRef] = (),
        licences: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        """Move the shards into place, then the tree, then the manifest.

        Raises:
            DataError: There is no shard.
        """
        if not self._files:
            raise DataError(f"a {self._kind} without shards cannot be committed")
        manifest = Manifest(
            kind=self._kind,
            shards=tuple(sorted(self._files.values(), key=lambda shard: shard.path)),
            parents=tuple(sorted(set(parents))),
            licences=tuple(sorted(set(licences))),
            facts=dict(facts or {}),
        )
        for file, shard in self._files.items():
            self._store.keep_object(file, shard)
        self._store.keep_artifact(manifest, self._staging)
        return manifest.ref


class _FolderShard:
    """A shard's file in the staging folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, int] = {}

    def count(self, **counts: int) -> None:
        """Add to what the shard holds."""
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0) + value


def shards_by_digest(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """The shards in order of their digest: the order in which a sample is drawn."""
    return tuple(sorted(shards, key=lambda shard: (shard.sha256, shard.path)))


def _check_bytes(path: Path, shard: Shard) -> None:
    """Hash a shard's file.

    Raises:
        DataError: Its bytes are not the shard's.
    """
    digest = _sha256(path)
    if digest != shard.sha256:
        raise DataError(
            f"shard {shard.path!r} is corrupt: {path} has sha256 {digest}, "
            f"expected {shard.sha256}; run its stage again to make it anew"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests_and_sync(path: Path) -> tuple[str, str, int]:
    """Both digests and the size in one read, with the bytes on the disk after it."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    num_bytes = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            sha256.update(block)
            md5.update(block)
            num_bytes += len(block)
        os.fsync(file.fileno())
    return sha256.hexdigest(), md5.hexdigest(), num_bytes


def _place(source: Path, target: Path) -> None:
    """Rename into place and make the name durable."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _is_abandoned(folder: Path) -> bool:
    """Whether no living process holds the draft's lock."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(lock)
