"""The data docs of interleaved data: verdict, sums and distributions of each shard."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from interloom.core.artifacts import ArtifactRef
from interloom.ports.store import ArtifactStore

_REPORT = "report.json"
_SUMS = {  # of a shard, in the words of a reader
    "refused_spans": "spans refused",
    "pace": "pace of real speech",
    "share_difference": "speech share, off by",
    "length_deviation": "span lengths, deviations from Poisson",
    "error_rate": "error rate when read back",
}


@dataclass(frozen=True, slots=True)
class ShardsView:
    """What the report of an artifact says.

    Attributes:
        headline: How many shards are published, in one sentence.
        lines: One a shard.
        left_out: Documents and spans that are not there or not spoken, by reason.
        lengths: Spans of each length in words: seen and expected; empty but for Poisson.
    """

    headline: str
    lines: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, int]
    lengths: Mapping[str, list[float]]


def view(store: ArtifactStore, artifact: ArtifactRef) -> ShardsView | None:
    """The report that was published with an artifact; None if it has none."""
    manifest = store.manifest(artifact)
    shard = next((one for one in manifest.shards if one.path == _REPORT), None)
    if shard is None:
        return None
    shards = json.loads(store.local_path(shard).read_bytes())["shards"]
    verdicts = Counter(one["verdict"] for one in shards)
    reasons = Counter[str]()
    for one in shards:
        reasons.update({f"document: {why}": count for why, count in one["left_out"].items()})
        spans = {why: count for why, count in one["outcomes"].items() if why != "spoken"}
        reasons.update({f"span: {why}": count for why, count in spans.items()})
    lengths = {
        "seen": _summed([one["lengths_seen"] for one in shards]),
        "expected": _summed([one["lengths_expected"] for one in shards]),
    }
    return ShardsView(
        headline=f"{verdicts['published']} of {len(shards)} shards are published, "
        f"{verdicts['quarantined']} are in quarantine.",
        lines=tuple(_line(one) for one in shards),
        left_out={why: count for why, count in reasons.most_common() if count},
        lengths=lengths if sum(lengths["seen"]) else {},
    )


def _line(shard: Mapping[str, Any]) -> dict[str, Any]:
    """One shard."""
    return {
        "shard": shard["name"],
        "verdict": shard["verdict"],
        "documents": shard["documents"],
        "rows": shard["rows"],
        "rows left out": shard["broken_rows"],
        "speech tokens": shard["speech_tokens"],
        **{words: round(shard["sums"][name], 4) for name, words in _SUMS.items()},
        "broken": ", ".join(shard["failed"]),
    }


def _summed(columns: list[list[float]]) -> list[float]:
    """The sum of lists, place by place."""
    longest = max(map(len, columns), default=0)
    padded = [column + [0.0] * (longest - len(column)) for column in columns]
    return [sum(values) for values in zip(*padded, strict=True)]


def draw(shown: ShardsView) -> None:
    """Put a view on the page."""
    st.subheader(shown.headline)
    st.dataframe(list(shown.lines), hide_index=True)
    if shown.left_out:
        st.caption("Left out or left as text, by reason")
        st.dataframe([shown.left_out], hide_index=True)
    if shown.lengths:
        st.caption("Spans by their length in words, beside what the policy lets expect")
        st.bar_chart(dict(shown.lengths), stack=False, height=220)
