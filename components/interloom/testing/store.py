"""Stores for tests: in memory, and a folder that goes away."""

import hashlib
import io
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from interloom.adapters.checked_store import manifest_key, not_held, object_key, of_kind
from interloom.adapters.folder_store import FolderStore
from interloom.adapters.staging import StagedDraft
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, Shard
from interloom.core.errors import DataError, MissingError
from interloom.ports.store import ArtifactDraft, ArtifactStore, Damage, StoredObject


@contextmanager
def temporary() -> Iterator[FolderStore]:
    """A folder store that is removed on leaving."""
    with tempfile.TemporaryDirectory(prefix="interloom-") as folder:
        yield FolderStore(Path(folder) / "store")


def stand_in(store: ArtifactStore, kind: ArtifactKind) -> ArtifactRef:
    """An artifact that nobody reads, where one is named as a parent; the same in every store."""
    with store.draft(kind) as draft:
        with draft.shard("nothing") as shard:
            shard.path.touch()
        return draft.commit()


class MemoryStore:
    """An ``ArtifactStore`` that keeps manifests and shards in dictionaries.

    Drafts and ``local_path`` need files: they lie in a temporary folder that lives as long as the
    store.
    """

    url = "memory"

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}  # by md5; tests may damage them
        self._manifests: dict[str, Manifest] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="interloom-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def prepare(self) -> None:
        """Memory can always be written."""

    @contextmanager
    def draft(self, kind: ArtifactKind) -> Iterator[ArtifactDraft]:
        """Begin an artifact; leaving without commit forgets it."""

        def keep(manifest: Manifest, files: Mapping[Path, Shard]) -> None:
            for file, shard in files.items():
                self.contents[shard.md5] = file.read_bytes()
            self._manifests[manifest.ref.id] = manifest

        with tempfile.TemporaryDirectory(dir=self._folder) as staging:
            yield StagedDraft(kind, Path(staging), keep, self.manifest)

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The manifest behind ``ref``."""
        return of_kind(self.manifest_by_id(ref.id), ref)

    def manifest_by_id(self, artifact_id: str) -> Manifest:
        """The manifest with this id."""
        if artifact_id not in self._manifests:
            raise not_held(self.url, artifact_id)
        return self._manifests[artifact_id]

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

    def damages(self, manifest: Manifest, *, every_byte: bool) -> Sequence[Damage]:  # noqa: ARG002
        """Every shard that is not right."""
        found = []
        for shard in manifest.shards:
            try:
                self._bytes(shard)
            except (DataError, MissingError) as error:
                is_missing = isinstance(error, MissingError)
                found.append(Damage(shard.path, object_key(shard.md5), str(error), is_missing))
        return found

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether the artifact was committed."""
        return ref.id in self._manifests

    def admit(
        self, manifest: Manifest, fetch: Callable[[Shard], Path], *, every_byte: bool
    ) -> Sequence[Damage]:
        """Take what is missing or damaged."""
        found = self.damages(manifest, every_byte=every_byte)
        for damage in found:
            shard = manifest.shard(damage.path)
            self.contents[shard.md5] = fetch(shard).read_bytes()
        self._manifests[manifest.ref.id] = manifest
        return found

    def objects(self) -> Iterator[StoredObject]:
        """Shards and manifests; memory knows no age."""
        for md5, data in self.contents.items():
            yield StoredObject(object_key(md5), len(data), age_s=0.0)
        for manifest in self._manifests.values():
            yield StoredObject(manifest_key(manifest.ref.id), len(manifest.to_json()), age_s=0.0)

    def remove(self, key: str, *, grace_s: float) -> bool:
        """Forget one object; everything is young."""
        if grace_s > 0:
            return False
        found = {object_key(md5): md5 for md5 in self.contents}.get(key)
        if found is not None:
            del self.contents[found]
            return True
        artifact_id = key.removeprefix("manifests/").removesuffix(".json")
        return self._manifests.pop(artifact_id, None) is not None

    def sweep(self, *, grace_s: float) -> int:  # noqa: ARG002 - the port's name
        """A draft in memory dies with its writer."""
        return 0

    def _bytes(self, shard: Shard) -> bytes:
        if shard.md5 not in self.contents:
            raise MissingError(f"shard {shard.path!r} is not in the store")
        data = self.contents[shard.md5]
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise DataError(f"shard {shard.path!r} is corrupt")
        return data
