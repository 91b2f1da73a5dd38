"""What stores in the layout of a DVC remote have in common: addresses, and checks of what is there.

The folder and the bucket differ in how an object is read; what is wrong with it, and what is then
raised, is the same.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from interloom.core.artifacts import ArtifactRef, Manifest, Shard, tree_json
from interloom.core.errors import DataError, MissingError
from interloom.ports.store import TREE, Damage

_AGAIN = "run its stage again, or interloom data heal, to make it anew"


class CheckedStore(ABC):
    """The half of an ``ArtifactStore`` that follows from reading manifests and finding damages."""

    @abstractmethod
    def manifest_by_id(self, artifact_id: str) -> Manifest:
        """A manifest, its bytes checked against the id."""

    @abstractmethod
    def local_path(self, shard: Shard) -> Path:
        """A local file with the shard's bytes, checked."""

    @abstractmethod
    def find_damages(self, manifest: Manifest, *, every_byte: bool) -> Iterator[Damage]:
        """Damages as they are found, the tree's first."""

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The manifest behind ``ref``, its bytes checked against the id."""
        return of_kind(self.manifest_by_id(ref.id), ref)

    def open_shard(self, shard: Shard) -> AbstractContextManager[BinaryIO]:
        """Stream a shard from its local file."""
        return self.local_path(shard).open("rb")

    def verify(self, ref: ArtifactRef, *, every_byte: bool) -> None:
        """Check that every object is there and of its size, and hash all or a sample of them."""
        for damage in self.find_damages(self.manifest(ref), every_byte=every_byte):
            raise_damage(damage)

    def damages(self, manifest: Manifest, *, every_byte: bool) -> Sequence[Damage]:
        """All that is missing or damaged."""
        found = self.find_damages(manifest, every_byte=every_byte)
        return sorted(found, key=lambda damage: damage.path)


def object_key(md5: str) -> str:
    """Where DVC's remote layout has an object, below the root."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def manifest_key(artifact_id: str) -> str:
    """Where the manifest of an artifact lies, below the root."""
    return f"manifests/{artifact_id}.json"


def not_held(url: str, artifact_id: str) -> MissingError:
    """What to raise for a manifest that is not there."""
    return MissingError(
        f"the store at {url} does not hold artifact {artifact_id[:12]}; "
        "run the stage that makes it, or check INTERLOOM_STORE_ROOT"
    )


def checked_manifest(data: bytes, artifact_id: str, address: str) -> Manifest:
    """Read the bytes found at ``address`` as the manifest with this id.

    Raises:
        DataError: They are not.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != artifact_id:
        raise DataError(
            f"the manifest {address} is corrupt: sha256 {digest}, expected {artifact_id}; "
            "interloom data heal writes it anew"
        )
    return Manifest.from_json(data)


def of_kind(manifest: Manifest, ref: ArtifactRef) -> Manifest:
    """The manifest, if it is of the kind that is asked for.

    Raises:
        DataError: It is not.
    """
    if manifest.kind is not ref.kind:
        raise DataError(f"{ref} is asked for as {ref.kind}, but it holds {manifest.kind}")
    return manifest


def raise_damage(damage: Damage) -> None:
    """Turn a damage into an error that names the shard.

    Raises:
        MissingError: The object is not there.
        DataError: It has other bytes.
    """
    where = f"{damage.address} {damage.fault}; {_AGAIN}"
    if damage.is_missing:
        raise MissingError(f"shard {damage.path!r} is not in the store: {where}")
    raise DataError(f"shard {damage.path!r} is corrupt: {where}")


def tree_damage(shards: tuple[Shard, ...], address: str, found: bytes | None) -> Damage | None:
    """What is wrong with DVC's tree of these shards, if anything; None stands for no object."""
    if found is None:
        return Damage(TREE, address, "does not exist", is_missing=True)
    if found != tree_json(shards):
        return Damage(TREE, address, "has other bytes than the tree", is_missing=False)
    return None


def size_damage(shard: Shard, address: str, num_bytes: int | None) -> Damage | None:
    """What is wrong with a shard's object by its size, if anything; None stands for no object."""
    if num_bytes is None:
        return Damage(shard.path, address, "does not exist", is_missing=True)
    if num_bytes != shard.num_bytes:
        fault = f"has {num_bytes} bytes, expected {shard.num_bytes}"
        return Damage(shard.path, address, fault, is_missing=False)
    return None


def digest_damage(shard: Shard, address: str, sha256: str) -> Damage | None:
    """What is wrong with a shard's object by the digest of its bytes, if anything."""
    if sha256 == shard.sha256:
        return None
    fault = f"has sha256 {sha256}, expected {shard.sha256}"
    return Damage(shard.path, address, fault, is_missing=False)


def shards_by_digest(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """The shards in order of their digest: the order in which a sample is drawn."""
    return tuple(sorted(shards, key=lambda shard: (shard.sha256, shard.path)))
