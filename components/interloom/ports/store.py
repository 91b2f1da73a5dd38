"""Storage of immutable artifacts, shard by shard."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, Shard

TREE = ".dir"  # stands for DVC's tree object where a shard's path is expected


@dataclass(frozen=True, slots=True)
class Damage:
    """One object of an artifact that is not what its manifest says.

    Attributes:
        path: The shard's path in the artifact, or ``TREE``.
        address: Where the object lies or should lie.
        fault: What is wrong with it.
        is_missing: Whether there is no object at all.
    """

    path: str
    address: str
    fault: str
    is_missing: bool

    def __str__(self) -> str:
        return f"shard {self.path!r}: {self.address} {self.fault}"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A file of the store, as a listing shows it.

    Attributes:
        key: Its place below the store's root, with forward slashes.
        num_bytes: Size.
        age_s: Seconds since it was last written.
    """

    key: str
    num_bytes: int
    age_s: float


class ShardDraft(Protocol):
    """A shard being written: write the file at ``path``, then count what is in it."""

    @property
    def path(self) -> Path:
        """Where to write the bytes; the parent folder exists, the file does not."""
        ...

    def count(self, **counts: int) -> None:
        """Record what the shard holds: ``rows``, ``samples``, ``speech_tokens``, ..."""
        ...


class ArtifactDraft(Protocol):
    """An artifact being written. Nothing of it can be seen until ``commit``."""

    def shard(self, path: str) -> AbstractContextManager[ShardDraft]:
        """Open a new shard; on leaving without an error it is hashed and kept."""
        ...

    def commit(
        self,
        *,
        parents: Sequence[ArtifactRef] = (),
        licences: Sequence[str] = (),
        consents: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        """Store the shards, then the tree, then the manifest, in this order.

        Committing the same content twice gives the same reference and changes nothing. The consents
        of the parents are carried on: nobody has to remember them.

        Raises:
            MissingError: The store does not hold a parent.
        """
        ...


class ArtifactStore(Protocol):
    """Content-addressed storage. Nothing is ever overwritten by other bytes."""

    @property
    def url(self) -> str:
        """Where it is: a folder's path or ``s3://bucket/prefix``; holds no secret."""
        ...

    def prepare(self) -> None:
        """Make sure that artifacts can be written, before work is begun whose result would be lost.

        Raises:
            ConfigError: The store cannot be written, or does not keep what publishing relies on.
            TransientError: It does not answer.
        """
        ...

    def draft(self, kind: ArtifactKind) -> AbstractContextManager[ArtifactDraft]:
        """Begin an artifact; leaving without ``commit`` forgets it."""
        ...

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The manifest behind ``ref``.

        Raises:
            MissingError: The store does not hold it.
            DataError: It holds other bytes under that address.
        """
        ...

    def manifest_by_id(self, artifact_id: str) -> Manifest:
        """The manifest of an artifact whose kind is not known; errors are those of ``manifest``."""
        ...

    def local_path(self, shard: Shard) -> Path:
        """A local read-only file with the shard's bytes, fetched if need be.

        Raises:
            MissingError: The store does not hold the shard.
            DataError: Its bytes have another size or digest.
        """
        ...

    def open_shard(self, shard: Shard) -> AbstractContextManager[BinaryIO]:
        """Stream a shard."""
        ...

    def verify(self, ref: ArtifactRef, *, every_byte: bool) -> None:
        """Check that the artifact is whole: every shard there and of its size.

        Args:
            ref: The artifact.
            every_byte: Hash all shards; otherwise hash a sample of them, chosen by their digests.

        Raises:
            MissingError: A shard or the manifest is not there.
            DataError: Bytes differ from the manifest; names the shard.
        """
        ...

    def damages(self, manifest: Manifest, *, every_byte: bool) -> Sequence[Damage]:
        """All that ``verify`` would object to, in order of path; reads what the store holds now."""
        ...

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether the artifact was committed; says nothing of its shards' bytes."""
        ...

    def admit(
        self, manifest: Manifest, fetch: Callable[[Shard], Path], *, every_byte: bool
    ) -> Sequence[Damage]:
        """Make an artifact whole here: what is missing or damaged is written anew.

        Args:
            manifest: Of the artifact.
            fetch: Gives a file with a shard's bytes, such as another store's ``local_path``.
            every_byte: Look for damage in all bytes, not in a sample.

        Returns:
            What was missing or damaged, and now is not.
        """
        ...

    def objects(self) -> Iterator[StoredObject]:
        """Everything that artifacts are made of: manifests, trees, shards; in no order."""
        ...

    def remove(self, key: str, *, grace_s: float) -> bool:
        """Remove one file that ``objects`` gave, unless it was written less than ``grace_s`` ago.

        Returns:
            Whether it was removed.
        """
        ...

    def sweep(self, *, grace_s: float) -> int:
        """Remove drafts whose writer died and that are ``grace_s`` old; returns how many."""
        ...
