"""Artifacts being written, in a local folder: the half that all stores share.

A draft lies in a folder that its process locks, so that a sweep can tell what the dead left behind.
Each shard is hashed once, when it is closed.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, Shard
from interloom.core.errors import DataError
from interloom.ports.store import ShardDraft

BLOCK_BYTES = 1 << 20

Keep = Callable[[Manifest, Mapping[Path, Shard]], None]
ManifestOf = Callable[[ArtifactRef], Manifest]


class Digests:
    """sha256, md5 and size of bytes as they pass."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.num_bytes = 0

    @property
    def sha256(self) -> str:
        """Ours."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """DVC's."""
        return self._md5.hexdigest()

    def update(self, block: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(block)
        self._md5.update(block)
        self.num_bytes += len(block)

    @classmethod
    def of(cls, file: BinaryIO) -> "Digests":
        """Of all that is left in a file."""
        digests = cls()
        while block := file.read(BLOCK_BYTES):
            digests.update(block)
        return digests


class StagedDraft:
    """An ``ArtifactDraft`` in a folder; ``keep`` stores its files, its tree and its manifest.

    ``manifest_of`` gives the manifests of its parents, whose consents it carries on.
    """

    def __init__(
        self, kind: ArtifactKind, staging: Path, keep: Keep, manifest_of: ManifestOf
    ) -> None:
        self._kind = kind
        self._staging = staging
        self._keep = keep
        self._manifest_of = manifest_of
        self._files: dict[Path, Shard] = {}

    @contextmanager
    def shard(self, path: str) -> Iterator[ShardDraft]:
        """Open a shard; hash it, and bring it to the disk, when it is left without an error.

        Raises:
            DataError: The path is not relative, is taken, or nothing was written.
        """
        Shard(path, sha256="", md5="", num_bytes=0)  # refuses a path that leaves the artifact
        if any(shard.path == path for shard in self._files.values()):
            raise DataError(f"shard {path!r} is written twice in one {self._kind}")
        folder = self._staging / str(len(self._files))
        folder.mkdir()
        draft = _StagedShard(folder / Path(path).name)
        yield draft
        if not draft.path.is_file() or draft.path.is_symlink():
            raise DataError(f"shard {path!r} was opened, but {draft.path.name} was not written")
        with draft.path.open("rb") as file:
            digests = Digests.of(file)
            os.fsync(file.fileno())
        self._files[draft.path] = Shard(
            path, digests.sha256, digests.md5, digests.num_bytes, draft.counts
        )

    def commit(
        self,
        *,
        parents: Sequence[ArtifactRef] = (),
        licences: Sequence[str] = (),
        consents: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        """Store the shards, then the tree, then the manifest.

        Raises:
            DataError: There is no shard.
            MissingError: The store does not hold a parent.
        """
        if not self._files:
            raise DataError(f"a {self._kind} without shards cannot be committed")
        carried = (tag for parent in parents for tag in self._manifest_of(parent).consents)
        manifest = Manifest(
            kind=self._kind,
            shards=tuple(sorted(self._files.values(), key=lambda shard: shard.path)),
            parents=tuple(sorted(set(parents))),
            licences=tuple(sorted(set(licences))),
            facts=dict(facts or {}),
            consents=tuple(sorted({*consents, *carried})),
        )
        self._keep(manifest, self._files)
        return manifest.ref


class _StagedShard:
    """A shard's file in the staging folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, int] = {}

    def count(self, **counts: int) -> None:
        """Add to what the shard holds."""
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0) + value


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A new folder below ``parent``, locked while it is used and removed on leaving."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep_staging(parent: Path, *, grace_s: float) -> int:
    """Remove the staging folders that no living process holds and that are old enough."""
    removed = 0
    for folder in parent.glob("*"):
        if time.time() - folder.stat().st_mtime >= grace_s and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _is_abandoned(folder: Path) -> bool:
    """Whether no living process holds the folder's lock."""
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
