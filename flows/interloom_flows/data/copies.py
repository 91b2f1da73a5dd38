"""Copies of artifacts between stores, and data that is not copied: push, pull, import."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from interloom.bootstrap import Services
from interloom.core.artifacts import ArtifactRef, Manifest, canonical_json
from interloom.core.ids import new_run_id
from interloom.ports.catalog import DatasetVersion, RunStart
from interloom.ports.store import TREE, ArtifactStore
from interloom.stages.leasing import held_run
from interloom_flows.data.wholeness import manifest_of


@dataclass(frozen=True, slots=True)
class Copied:
    """An artifact that is whole in another store now.

    Attributes:
        ref: Which.
        num_shards: How many shards had to be written.
        num_bytes: Their size.
    """

    ref: ArtifactRef
    num_shards: int
    num_bytes: int


def copy(
    manifests: Sequence[Manifest], source: ArtifactStore, target: ArtifactStore
) -> list[Copied]:
    """Copy artifacts in order, leaving out what the target has.

    Raises:
        MissingError: The source lacks a shard.
        DataError: The source has other bytes; nothing wrong is written.
    """
    target.prepare()
    return [_copy_one(manifest, source, target) for manifest in manifests]


def push(
    services: Services, versions: Sequence[DatasetVersion], target: ArtifactStore, *, parents: bool
) -> list[Copied]:
    """Copy versions into another store, in a run of its own.

    Args:
        services: Where they are.
        versions: Which.
        target: Where they go.
        parents: Copy what they were made from before them.
    """
    if not versions:
        return []
    refs = [version.ref for version in versions]
    if parents:
        refs = [*services.catalog.ancestors(refs), *refs]
    unique = list(dict.fromkeys(refs))
    with _run_of(services, "push", versions[0].name, {"to": target.url}):
        manifests = [manifest_of(services.catalog, services.store, ref) for ref in unique]
        return copy(manifests, services.store, target)


def pull_known(
    services: Services, versions: Sequence[DatasetVersion], source: ArtifactStore
) -> list[Copied]:
    """Copy versions that this catalog has published into this store, in a run of its own."""
    with _run_of(services, "pull", versions[0].name, {"from": source.url}):
        manifests = [services.catalog.manifest(version.ref) for version in versions]
        return copy(manifests, source, services.store)


def pull_new(
    services: Services, ref: ArtifactRef, name: str, source: ArtifactStore
) -> tuple[Copied, DatasetVersion]:
    """Copy an artifact of another installation into this store, and publish it under a name.

    It is published in a run of its own. What it was made from stays where it is: the manifest
    names it, and this catalog does not know it.
    """
    request = {"artifact": f"{ref.kind}:{ref.id}", "from": source.url}
    with _run_of(services, "pull", name, request) as run_id:
        manifest = source.manifest(ref)
        [copied] = copy([manifest], source, services.store)
        version = services.catalog.publish_dataset(name, manifest, run_id)
    return copied, version


def register(services: Services, url: str, name: str, *, licence: str) -> DatasetVersion:
    """Publish the address and version of data that stays where it is, in a run of its own."""
    from interloom.adapters.dvc_import import plain_address, register_url

    request = {"url": plain_address(url)}
    with _run_of(services, "import_url", name, request) as run_id:
        ref = register_url(services.store, url, services.settings.s3, licence=licence)
        return services.catalog.publish_dataset(name, services.store.manifest(ref), run_id)


def _run_of(
    services: Services, job: str, name: str, request: Mapping[str, str]
) -> AbstractContextManager[str]:
    """A run in the catalog that ends as the block does, and keeps clean-ups away; gives its id."""
    body = canonical_json(dict(request)).decode()
    start = RunStart(new_run_id(), job, name, request_json=body)
    return held_run(services.catalog, start, ttl_s=services.settings.lease_ttl_s)


def _copy_one(manifest: Manifest, source: ArtifactStore, target: ArtifactStore) -> Copied:
    written = target.admit(manifest, source.local_path, every_byte=False)
    shards = [manifest.shard(damage.path) for damage in written if damage.path != TREE]
    return Copied(manifest.ref, len(shards), sum(shard.num_bytes for shard in shards))
