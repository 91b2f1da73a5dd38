"""The numbers of an evaluation with their intervals, and its examples to listen to."""

import json
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from interloom.core.artifacts import ArtifactRef
from interloom.evaluation.numbers import Number, fold_intervals
from interloom.ports.catalog import Catalog
from interloom.ports.store import ArtifactStore


@dataclass(frozen=True, slots=True)
class Example:
    """A recording of the evaluation and what it shows."""

    title: str
    path: Path


@dataclass(frozen=True, slots=True)
class ResultsView:
    """All that the page shows."""

    title: str
    numbers: tuple[Number, ...]
    examples: tuple[Example, ...]


def view(catalog: Catalog, store: ArtifactStore, evaluation: ArtifactRef) -> ResultsView:
    """The numbers and examples of one evaluation."""
    producer = catalog.producer(evaluation)
    metrics = catalog.metrics(producer) if producer else ()
    values = {metric.name: metric.value for metric in metrics if metric.step is None}
    numbers = sorted(fold_intervals(values), key=lambda number: number.name)
    return ResultsView(str(evaluation), tuple(numbers), _examples(store, evaluation))


def _examples(store: ArtifactStore, evaluation: ArtifactRef) -> tuple[Example, ...]:
    """The WAV files of an evaluation with their descriptions."""
    manifest = store.manifest(evaluation)
    described: dict[str, str] = {}
    for shard in manifest.shards:
        if shard.path == "examples.json":
            body = json.loads(store.local_path(shard).read_bytes())
            described = {item["path"]: item["title"] for item in body}
    return tuple(
        Example(described.get(shard.path, shard.path), store.local_path(shard))
        for shard in manifest.shards
        if shard.path.endswith(".wav")
    )


def draw(shown: ResultsView) -> None:
    """Put the view on the page."""
    st.subheader(shown.title)
    st.dataframe(
        [
            {
                "result": number.name,
                "value": number.value,
                "95 % from": number.low,
                "to": number.high,
                "of": number.num_items,
            }
            for number in shown.numbers
        ],
        hide_index=True,
    )
    for example in shown.examples:
        st.write(example.title)
        st.audio(example.path.read_bytes(), format="audio/wav")
