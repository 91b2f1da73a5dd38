"""What changed from one artifact to another: shards, counts, licences, facts."""

from collections.abc import Iterator, Mapping
from typing import Any

from interloom.core.artifacts import Manifest


def describe_changes(was: Manifest, now: Manifest) -> Iterator[str]:
    """One line for each difference; none if the artifacts are the same."""
    if was.kind is not now.kind:
        yield f"kind: {was.kind} -> {now.kind}"
    yield from _changes("", _properties(was), _properties(now))
    before = {shard.path: shard for shard in was.shards}
    after = {shard.path: shard for shard in now.shards}
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is None and new is not None:
            yield f"shard {path}: added, {new.num_bytes:,} bytes"
        elif new is None and old is not None:
            yield f"shard {path}: removed, {old.num_bytes:,} bytes"
        elif old is not None and new is not None and old.sha256 != new.sha256:
            yield f"shard {path}: other bytes, {new.num_bytes - old.num_bytes:+,}"


def _properties(manifest: Manifest) -> Mapping[str, Any]:
    counted = sorted({name for shard in manifest.shards for name in shard.counts})
    return {
        "shards": len(manifest.shards),
        "bytes": sum(shard.num_bytes for shard in manifest.shards),
        **{name.replace("_", " "): manifest.count(name) for name in counted},
        "licences": ", ".join(manifest.licences) or "none given",
        "made from": ", ".join(str(parent) for parent in manifest.parents) or "nothing",
        "facts": dict(manifest.facts),
    }


def _changes(path: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Differences of two mappings, going into mappings."""
    for key in [*was, *(key for key in now if key not in was)]:
        old, new = was.get(key), now.get(key)
        below = f"{path}.{key}" if path else str(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(below, old, new)
        elif old != new and type(old) is int and type(new) is int:
            yield f"{below}: {old:,} -> {new:,} ({new - old:+,})"
        elif old != new:
            yield f"{below}: {_shown(old)} -> {_shown(new)}"


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
