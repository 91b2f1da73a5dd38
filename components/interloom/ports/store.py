"""Storage of immutable artifacts, shard by shard."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, Shard


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
        facts: Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        """Store the shards, then the tree, then the manifest, in this order.

        Committing the same content twice gives the same reference and changes nothing.
        """
        ...


class ArtifactStore(Protocol):
    """Content-addressed storage. Nothing is ever overwritten."""

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

    def sweep(self, *, grace_s: float) -> int:
        """Remove drafts whose writer died and that are ``grace_s`` old; returns how many."""
        ...
