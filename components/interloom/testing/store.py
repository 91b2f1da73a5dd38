"""Stores for tests: in memory, and a folder that goes away."""

import hashlib
import io
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from interloom.adapters.folder_store import FolderStore
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, Shard
from interloom.core.errors import DataError, MissingError
from interloom.ports.store import ArtifactDraft, ShardDraft


@contextmanager
def temporary() -> Iterator[FolderStore]:
    """A folder store that is removed on leaving."""
    with tempfile.TemporaryDirectory(prefix="interloom-") as folder:
        yield FolderStore(Path(folder) / "store")


class MemoryStore:
    """An ``ArtifactStore`` that keeps manifests and shards in dictionaries.

    Drafts and ``local_path`` need files: they lie in a temporary folder that lives as long as the
    store.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}  # by sha256; tests may damage them
        self._manifests: dict[str, Manifest] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="interloom-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    @contextmanager
    def draft(self, kind: ArtifactKind) -> Iterator[ArtifactDraft]:
        """Begin an artifact; leaving without commit forgets it."""
        with tempfile.TemporaryDirectory(dir=self._folder) as staging:
            yield _MemoryDraft(self, kind, Path(staging))

    def keep(self, manifest: Manifest, shards: Mapping[str, bytes]) -> None:
        """Hold an artifact."""
        self.objects |= shards
        self._manifests[manifest.ref.id] = manifest

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The manifest behind ``ref``."""
        if ref.id not in self._manifests:
            raise MissingError(f"the store does not hold {ref}")
        manifest = self._manifests[ref.id]
        if manifest.kind is not ref.kind:
            raise DataError(f"{ref} is asked for as {ref.kind}, but it holds {manifest.kind}")
        return manifest

    def local_path(self, shard: Shard) -> Path:
        """A file with the shard's bytes."""
        data = self._bytes(shard)
        path = self._folder / shard.sha256
        if not path.is_file():
            path.write_bytes(data)
        return path

    @contextmanager
    def open_shard(self, shard: Shard) -> Iterator[BinaryIO]:
        """Stream a shard."""
        yield io.BytesIO(self._bytes(shard))

    def verify(self, ref: ArtifactRef, *, every_byte: bool) -> None:  # noqa: ARG002 - the port's name
        """Check every shard; memory is quick, so a sample is all of them."""
        for shard in self.manifest(ref).shards:
            self._bytes(shard)

    def sweep(self, *, grace_s: float) -> int:  # noqa: ARG002 - the port's name
        """A draft in memory dies with its writer."""
        return 0

    def _bytes(self, shard: Shard) -> bytes:
        if shard.sha256 not in self.objects:
            raise MissingError(f"shard {shard.path!r} is not in the store")
        data = self.objects[shard.sha256]
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise DataError(f"shard {shard.path!r} is corrupt")
        return data


class _MemoryDraft:
    """Shards in a temporary folder until they are committed."""

    def __init__(self, store: MemoryStore, kind: ArtifactKind, staging: Path) -> None:
        self._store = store
        self._kind = kind
        self._staging = staging
        self._shards: dict[str, Shard] = {}
        self._objects: dict[str, bytes] = {}

    @contextmanager
    def shard(self, path: str) -> Iterator[ShardDraft]:
        """Open a shard; keep its bytes when it is left without an error."""
        Shard(path, sha256="", md5="", num_bytes=0)
        if path in self._shards:
            raise DataError(f"shard {path!r} is written twice in one {self._kind}")
        folder = self._staging / str(len(self._shards))
        folder.mkdir()
        draft = _MemoryShard(folder / Path(path).name)
        yield draft
        if not draft.path.is_file():
            raise DataError(f"shard {path!r} was opened, but {draft.path.name} was not written")
        data = draft.path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self._objects[sha256] = data
        self._shards[path] = Shard(path, sha256, md5, len(data), draft.counts)

    def commit(
        self,
        *,
        parents: Sequence[ArtifactRef] = (),
        licences: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        """Hold the shards and the manifest."""
        if not self._shards:
            raise DataError(f"a {self._kind} without shards cannot be committed")
        manifest = Manifest(
            kind=self._kind,
            shards=tuple(self._shards[path] for path in sorted(self._shards)),
            parents=tuple(sorted(set(parents))),
            licences=tuple(sorted(set(licences))),
            facts=dict(facts or {}),
        )
        self._store.keep(manifest, self._objects)
        return manifest.ref


class _MemoryShard:
    """A shard's file until it is committed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, int] = {}

    def count(self, **counts: int) -> None:
        """Add to what the shard holds."""
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0) + value
