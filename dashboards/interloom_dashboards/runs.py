"""Runs with their stages and curves, and two runs side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from interloom.ports.catalog import Catalog, Metric, RunRecord
from interloom_dashboards.words import duration

Curves = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class StageLine:
    """A stage of a pipeline as a row of the table."""

    stage: str
    state: str
    wall: str
    cpu: str
    memory: str
    note: str


@dataclass(frozen=True, slots=True)
class RunView:
    """One pipeline: its stages, result numbers and curves by stage and name."""

    title: str
    stages: tuple[StageLine, ...]
    results: Mapping[str, float]
    curves: Mapping[str, Curves]


def view(catalog: Catalog, run_id: str) -> RunView:
    """Everything about one pipeline."""
    run = catalog.run(run_id)
    stages = catalog.runs(parent_run_id=run.run_id)
    metrics = {stage.job: catalog.metrics(stage.run_id) for stage in stages}
    return RunView(
        title=f"{run.recipe} · {run.run_id[:8]} · {run.state}",
        stages=tuple(_line(stage) for stage in stages),
        results={
            metric.name: metric.value
            for found in metrics.values()
            for metric in found
            if metric.step is None
        },
        curves={job: curves for job, found in metrics.items() if (curves := _curves(found))},
    )


def draw(shown: RunView) -> None:
    """Put the view on the page."""
    st.subheader(shown.title)
    st.dataframe(
        [
            {
                "stage": line.stage,
                "state": line.state,
                "wall": line.wall,
                "processor": line.cpu,
                "memory": line.memory,
                "note": line.note,
            }
            for line in shown.stages
        ],
        hide_index=True,
    )
    if shown.curves:
        stage = st.selectbox("Curves of", sorted(shown.curves))
        name = st.selectbox("Curve", sorted(shown.curves[stage]))
        st.line_chart(dict(shown.curves[stage][name]), x_label="step", y_label=name)
    if shown.results:
        st.subheader("Numbers")
        st.dataframe(
            [{"metric": name, "value": value} for name, value in sorted(shown.results.items())],
            hide_index=True,
        )


def compare(left: RunView, right: RunView) -> list[dict[str, str | float]]:
    """The numbers that both have, those that changed most first."""
    both = left.results.keys() & right.results.keys()
    rows = [(abs(right.results[name] - left.results[name]), name) for name in both]
    return [
        {
            "metric": name,
            "left": left.results[name],
            "right": right.results[name],
            "change": right.results[name] - left.results[name],
        }
        for _, name in sorted(rows, key=lambda row: (-row[0], row[1]))
    ]


def _line(stage: RunRecord) -> StageLine:
    peak = stage.usage.peak_rss_bytes
    return StageLine(
        stage=stage.job,
        state=str(stage.state),
        wall="" if stage.is_cache_hit else duration(stage.usage.wall_s),
        cpu="" if stage.is_cache_hit else duration(stage.usage.cpu_s),
        memory=f"{peak / 1e9:.2f} GB" if peak else "",
        note="reused" if stage.is_cache_hit else (stage.error or ""),
    )


def _curves(metrics: Sequence[Metric]) -> Curves:
    curves: dict[str, dict[int, float]] = {}
    for metric in metrics:
        if metric.step is not None:
            curves.setdefault(metric.name, {})[metric.step] = metric.value
    return curves
