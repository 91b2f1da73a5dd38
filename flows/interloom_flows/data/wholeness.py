"""Whether published versions are whole in the store, and making them whole from copies."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from interloom.core.artifacts import ArtifactRef, Manifest, Shard
from interloom.core.errors import DataError, MissingError
from interloom.ports.catalog import Catalog, DatasetVersion
from interloom.ports.store import ArtifactStore, Damage
from interloom.stages.sweeping import was_collected

MANIFEST = "manifest"  # stands for the manifest where a shard's path is expected


@dataclass(frozen=True, slots=True)
class Checked:
    """A version and what is wrong with it in the store; nothing, if it is whole."""

    version: DatasetVersion
    damages: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class Healed:
    """What came of healing a damaged version.

    Attributes:
        version: Which.
        mended: What was damaged and now is not.
        remaining: Why it is still damaged; empty if it is whole.
    """

    version: DatasetVersion
    mended: tuple[Damage, ...]
    remaining: str = ""


def check(
    catalog: Catalog,
    store: ArtifactStore,
    versions: Sequence[DatasetVersion],
    *,
    every_byte: bool = True,
) -> Iterator[Checked]:
    """Look at each artifact of these versions once, in order; not at what ``gc`` removed.

    Args:
        catalog: Knows what an artifact should be, even if its manifest is lost.
        store: What is looked at.
        versions: Of which names.
        every_byte: Hash everything; otherwise a sample.
    """
    seen = set[ArtifactRef]()
    for version in versions:
        if version.ref in seen:
            continue
        seen.add(version.ref)
        if was_collected(catalog, store, version.ref):
            continue
        found = [*_manifest_damage(store, version.ref)]
        found += store.damages(catalog.manifest(version.ref), every_byte=every_byte)
        yield Checked(version, tuple(found))


def heal(
    catalog: Catalog,
    store: ArtifactStore,
    checked: Sequence[Checked],
    sources: Sequence[ArtifactStore],
) -> Iterator[Healed]:
    """Write anew what is damaged, from the first source that has the right bytes.

    Args:
        catalog: Has the manifests.
        store: What is healed.
        checked: As ``check`` found it; what is whole is left out.
        sources: Other stores, or DVC remotes and caches, in order of preference.
    """
    for one in checked:
        if not one.damages:
            continue
        manifest = catalog.manifest(one.version.ref)
        try:
            store.admit(manifest, fetcher(sources), every_byte=True)
        except (MissingError, DataError) as error:
            yield Healed(one.version, (), str(error))
            continue
        left = store.damages(manifest, every_byte=True)
        remaining = "; ".join(str(damage) for damage in left)
        yield Healed(one.version, one.damages if not left else (), remaining)


def fetcher(sources: Sequence[ArtifactStore]) -> Callable[[Shard], Path]:
    """A function that finds a shard's right bytes in one of several stores."""

    def fetch(shard: Shard) -> Path:
        for source in sources:
            with suppress(MissingError, DataError):
                return source.local_path(shard)
        asked = ", ".join(source.url for source in sources) or "none was named"
        raise MissingError(
            f"no other copy of shard {shard.path!r} was found in: {asked}; name a store or a DVC "
            "remote that has it with --from, or run its stage again"
        )

    return fetch


def manifest_of(catalog: Catalog, store: ArtifactStore, ref: ArtifactRef) -> Manifest:
    """The manifest from the catalog, or, of an artifact it does not know, from the store."""
    with suppress(MissingError):
        return catalog.manifest(ref)
    return store.manifest(ref)


def _manifest_damage(store: ArtifactStore, ref: ArtifactRef) -> Iterator[Damage]:
    """What is wrong with the stored manifest itself."""
    try:
        store.manifest(ref)
    except (MissingError, DataError) as error:
        is_missing = isinstance(error, MissingError)
        fault = "is not there" if is_missing else "has other bytes"
        yield Damage(MANIFEST, f"{store.url}/manifests/{ref.id}.json", fault, is_missing)
