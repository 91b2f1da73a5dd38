"""A store with mirrors: what it has lost is healed from them, before anything is made anew."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, Shard
from interloom.core.errors import DataError, MissingError
from interloom.ports.store import (
    ArtifactDraft,
    ArtifactStore,
    Damage,
    ShardDraft,
    StoredObject,
)

_LOG = logging.getLogger(__name__)


class MirroredStore:
    """An ``ArtifactStore`` that reads and heals from others what it does not hold whole.

    Writing goes to the store alone; ``interloom data push`` fills a mirror.
    """

    def __init__(self, store: ArtifactStore, mirrors: Sequence[ArtifactStore]) -> None:
        self._store = store
        self._mirrors = tuple(mirrors)

    @property
    def url(self) -> str:
        """Of the store itself."""
        return self._store.url

    def prepare(self) -> None:
        """Mirrors need not be there."""
        self._store.prepare()

    @contextmanager
    def draft(self, kind: ArtifactKind) -> Iterator[ArtifactDraft]:
        """Begin an artifact in the store; parents that only a mirror holds are brought there."""
        with self._store.draft(kind) as draft:
            yield _MirroredDraft(draft, self._bring)

    def manifest(self, ref: ArtifactRef) -> Manifest:
        """The manifest, from a mirror if the store has none or a damaged one."""
        try:
            return self._store.manifest(ref)
        except (MissingError, DataError):
            for mirror in self._mirrors:
                with suppress(MissingError, DataError):
                    return mirror.manifest(ref)
            raise

    def manifest_by_id(self, artifact_id: str) -> Manifest:
        """The manifest that the store itself has."""
        return self._store.manifest_by_id(artifact_id)

    def local_path(self, shard: Shard) -> Path:
        """The shard's file; a mirror's, with a line in the log, if the store's is not right."""
        try:
            return self._store.local_path(shard)
        except (MissingError, DataError) as error:
            with suppress(MissingError):
                path = self._from_mirrors(shard)
                _LOG.warning("%s; read from a mirror instead", error)
                return path
            raise

    def open_shard(self, shard: Shard) -> AbstractContextManager[BinaryIO]:
        """Stream a shard from its file."""
        return self.local_path(shard).open("rb")

    def verify(self, ref: ArtifactRef, *, every_byte: bool) -> None:
        """Check the store; what is wrong is healed from the mirrors, and checked again."""
        try:
            self._store.verify(ref, every_byte=every_byte)
        except (MissingError, DataError) as error:
            if not self._heal(ref):
                raise
            _LOG.warning("%s: healed from a mirror", error)
            self._store.verify(ref, every_byte=every_byte)

    def damages(self, manifest: Manifest, *, every_byte: bool) -> Sequence[Damage]:
        """What is wrong with the store itself."""
        return self._store.damages(manifest, every_byte=every_byte)

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether the store itself has the manifest."""
        return self._store.holds(ref)

    def admit(
        self, manifest: Manifest, fetch: Callable[[Shard], Path], *, every_byte: bool
    ) -> Sequence[Damage]:
        """Make whole in the store itself, from ``fetch`` or else from the mirrors."""

        def fetch_or_heal(shard: Shard) -> Path:
            try:
                return fetch(shard)
            except (MissingError, DataError):
                with suppress(MissingError):
                    return self._from_mirrors(shard)
                raise

        return self._store.admit(manifest, fetch_or_heal, every_byte=every_byte)

    def objects(self) -> Iterator[StoredObject]:
        """Of the store itself."""
        return self._store.objects()

    def remove(self, key: str, *, grace_s: float) -> bool:
        """From the store itself."""
        return self._store.remove(key, grace_s=grace_s)

    def sweep(self, *, grace_s: float) -> int:
        """The store's own drafts."""
        return self._store.sweep(grace_s=grace_s)

    def _bring(self, ref: ArtifactRef) -> None:
        """Heal an artifact that the store does not hold, if a mirror does."""
        if not self._store.holds(ref):
            self._heal(ref)

    def _from_mirrors(self, shard: Shard) -> Path:
        """Right bytes of a shard.

        Raises:
            MissingError: No mirror has them.
        """
        for mirror in self._mirrors:
            with suppress(MissingError, DataError):
                return mirror.local_path(shard)
        raise MissingError(f"no mirror holds shard {shard.path!r}")

    def _heal(self, ref: ArtifactRef) -> bool:
        """Make an artifact whole; whether that was possible."""
        try:
            self._store.admit(self.manifest(ref), self._from_mirrors, every_byte=True)
        except (MissingError, DataError):
            return False
        return True


class _MirroredDraft:
    """A draft whose parents are brought into the store before it is committed."""

    def __init__(self, draft: ArtifactDraft, bring: Callable[[ArtifactRef], None]) -> None:
        self._draft = draft
        self._bring = bring

    def shard(self, path: str) -> AbstractContextManager[ShardDraft]:
        """Open a shard."""
        return self._draft.shard(path)

    def commit(
        self,
        *,
        parents: Sequence[ArtifactRef] = (),
        licences: Sequence[str] = (),
        consents: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        """Bring the parents, and commit."""
        for parent in parents:
            self._bring(parent)
        return self._draft.commit(
            parents=parents, licences=licences, consents=consents, facts=facts
        )
