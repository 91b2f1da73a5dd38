"""What of the store nobody needs: garbage collection that knows lineage.

Needed are the newest versions of every name, every version with an alias, and everything that any
of these was made from: a model that is kept keeps its corpora. Garbage are the other artifacts of
the catalog, and objects that no manifest in the store names, such as those of a killed upload.
Manifests that this catalog does not know are another catalog's business, and stay, unless asked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from interloom.adapters.checked_store import manifest_key, object_key
from interloom.core.artifacts import ArtifactRef, Manifest, tree_md5
from interloom.ports.catalog import AuditEntry, Catalog
from interloom.ports.store import ArtifactStore, StoredObject
from interloom.stages.sweeping import COLLECTED

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Garbage:
    """What may be removed, and what is kept.

    Attributes:
        artifacts: Published artifacts that nothing needs, oldest names first.
        unknown: Ids of manifests that this catalog does not know.
        manifests: Keys to remove first.
        objects: Objects that only those artifacts, or nobody, name.
        num_needed: How many artifacts are needed.
    """

    artifacts: tuple[ArtifactRef, ...]
    unknown: tuple[str, ...]
    manifests: tuple[StoredObject, ...]
    objects: tuple[StoredObject, ...]
    num_needed: int

    @property
    def num_bytes(self) -> int:
        """What removing it would free."""
        return sum(item.num_bytes for item in (*self.manifests, *self.objects))


def needed(catalog: Catalog, *, keep: int) -> frozenset[ArtifactRef]:
    """The artifacts that live versions are, or were made from.

    Args:
        catalog: Knows names, aliases and lineage.
        keep: How many of the newest versions of each name are live.
    """
    versions = catalog.datasets()
    newest: dict[str, int] = {}
    for version in versions:
        newest[version.name] = max(version.version, newest.get(version.name, 0))
    live = {one.ref for one in versions if one.version > newest[one.name] - keep}
    for name in newest:
        held = {alias.alias: alias.version for alias in catalog.aliases(name)}
        live |= {catalog.dataset(name, at).ref for at in held.values() if at is not None}
    return frozenset(live) | frozenset(catalog.ancestors(sorted(live)))


def find_garbage(
    catalog: Catalog, store: ArtifactStore, *, keep: int, grace_s: float, unknown: bool
) -> Garbage:
    """Look through catalog and store.

    Args:
        catalog: Decides what is needed.
        store: Is looked through.
        keep: How many of the newest versions of each name are live.
        grace_s: What was written since then is left alone: somebody may be publishing it.
        unknown: Count artifacts that this catalog does not know as garbage.
    """
    live = needed(catalog, keep=keep)
    published = {ref.id: ref for ref in _published(catalog)}
    stored = list(store.objects())
    manifests = {
        item.key.removeprefix("manifests/").removesuffix(".json"): item
        for item in stored
        if item.key.startswith("manifests/")
    }
    live_ids = {ref.id for ref in live}
    strangers = tuple(sorted(set(manifests) - set(published)))
    doomed = {
        artifact_id: item
        for artifact_id, item in manifests.items()
        if artifact_id not in live_ids
        and item.age_s >= grace_s
        and (unknown or artifact_id in published)
    }
    spared = set(manifests) - set(doomed) | live_ids
    kept = _objects_of(_manifests(catalog, store, published, spared))
    objects = tuple(
        item
        for item in stored
        if item.key.startswith("files/") and item.key not in kept and item.age_s >= grace_s
    )
    return Garbage(
        artifacts=tuple(sorted(published[one] for one in doomed if one in published)),
        unknown=strangers,
        manifests=tuple(doomed[one] for one in sorted(doomed)),
        objects=tuple(sorted(objects, key=lambda item: item.key)),
        num_needed=len(live),
    )


def remove_garbage(
    catalog: Catalog,
    store: ArtifactStore,
    garbage: Garbage,
    *,
    grace_s: float,
    who: str,
) -> int:
    """Remove it: audit, manifests, objects, so that a kill leaves nothing half removed unexplained.

    It is to be found and removed within one block of ``leasing.alone``.

    Args:
        catalog: Gets a row of audit for each artifact.
        store: Is cleaned; what became young since it was looked at is left.
        garbage: As ``find_garbage`` gave it.
        grace_s: As it was given there.
        who: Decided it.

    Returns:
        How many bytes were freed.
    """
    for ref in garbage.artifacts:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        subject = f"{ref.kind}:{ref.id}"
        catalog.record_audit(AuditEntry(now, who, COLLECTED, subject, {"store": store.url}))
    removed = [
        item
        for item in (*garbage.manifests, *garbage.objects)
        if store.remove(item.key, grace_s=grace_s)
    ]
    return sum(item.num_bytes for item in removed)


def _published(catalog: Catalog) -> Iterator[ArtifactRef]:
    """Every published artifact, page by page."""
    after = ""
    while page := catalog.artifacts(after=after, limit=_PAGE):
        yield from page
        after = page[-1].id


def _manifests(
    catalog: Catalog, store: ArtifactStore, published: dict[str, ArtifactRef], ids: set[str]
) -> Iterator[Manifest]:
    """The manifests with these ids: from the catalog, or what the store has of others."""
    for artifact_id in sorted(ids):
        if artifact_id in published:
            yield catalog.manifest(published[artifact_id])
        else:
            yield store.manifest_by_id(artifact_id)


def _objects_of(manifests: Iterator[Manifest]) -> frozenset[str]:
    """The keys of all that these manifests name."""
    keys = set[str]()
    for manifest in manifests:
        keys.add(manifest_key(manifest.ref.id))
        keys.add(object_key(tree_md5(manifest.shards)))
        keys |= {object_key(shard.md5) for shard in manifest.shards}
    return frozenset(keys)


def describe(refs: Sequence[ArtifactRef], catalog: Catalog) -> Iterator[str]:
    """Each artifact with the versions that it is."""
    for ref in refs:
        names = ", ".join(f"{one.name}@{one.version}" for one in catalog.names([ref]))
        yield f"{ref} ({names or 'no name'})"
