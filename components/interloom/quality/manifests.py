"""The suite of any artifact's manifest: what must hold whatever the artifact holds."""

from collections.abc import Sequence

from interloom.core.artifacts import ArtifactRef, Manifest
from interloom.ports.gate import CheckResult, Expectation, QualityGate
from interloom.ports.store import ArtifactStore

SUITE = "manifest"

EXPECTATIONS = (
    Expectation("no shard is empty", "num_bytes", minimum=1),
    Expectation("no shard is without rows", "rows", minimum=1),
    Expectation("no count is negative", "least_count", minimum=0),
    Expectation("the stored bytes are as many as the manifest says", "bytes_off", 0, 0),
    Expectation("every licence is named", "licences", minimum=1),
)


def judge_manifest(
    ref: ArtifactRef, *, store: ArtifactStore, gate: QualityGate
) -> tuple[CheckResult, ...]:
    """The gate's verdicts on an artifact's manifest; the rows they name are shards."""
    manifest = store.manifest(ref)
    stored = [store.local_path(shard).stat().st_size for shard in manifest.shards]
    paths = [shard.path for shard in manifest.shards]
    return gate.judge(f"{SUITE} of {ref.kind}", EXPECTATIONS, summarise(manifest, stored), paths)


def summarise(manifest: Manifest, stored_bytes: Sequence[int]) -> dict[str, list[float]]:
    """One number a shard in each column that ``EXPECTATIONS`` name.

    Args:
        manifest: Of any artifact.
        stored_bytes: Size of each shard where it lies, in the manifest's order.

    Returns:
        Columns of shape (shards,). A shard that counts no rows, such as a card, is not a table and
        counts as one row.
    """
    shards = manifest.shards
    return {
        "num_bytes": [float(shard.num_bytes) for shard in shards],
        "rows": [float(shard.counts.get("rows", 1)) for shard in shards],
        "least_count": [float(min(shard.counts.values(), default=0)) for shard in shards],
        "bytes_off": [
            float(stored - shard.num_bytes)
            for stored, shard in zip(stored_bytes, shards, strict=True)
        ],
        "licences": [float(len(manifest.licences))] * len(shards),
    }
