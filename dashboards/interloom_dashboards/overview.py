"""What is running, whether it is good, what it is made of: one page in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from interloom.ports.catalog import Catalog, DatasetVersion, Metric, RunRecord, RunState
from interloom_dashboards.words import ago, amount, duration

HEADLINES = (
    ("tokenizer/wer", "Words misread by the tokenizer", False),
    ("text_to_token/round_trip_wer", "Words lost from text to speech tokens", False),
    ("chat/answer_wer", "Words lost in spoken answers", False),
)


@dataclass(frozen=True, slots=True)
class Headline:
    """One number for everybody, with the change since the pipeline before."""

    label: str
    value: str
    change: str | None
    is_more_better: bool


@dataclass(frozen=True, slots=True)
class OverviewView:
    """All that the page shows."""

    status: str
    headlines: tuple[Headline, ...]
    data: tuple[tuple[str, str], ...]
    licences: tuple[str, ...]
    cost: str


def view(catalog: Catalog, *, now: str) -> OverviewView:
    """Summarise the newest pipeline and compare it with the one before that finished."""
    pipelines = catalog.runs(limit=20)
    if not pipelines:
        return OverviewView("Nothing has run yet. Try: interloom run starter", (), (), (), "")
    newest = pipelines[0]
    complete = [run for run in pipelines if run.state is RunState.COMPLETE]
    numbers = [_results(catalog, run) for run in complete[:2]]
    stages = catalog.runs(parent_run_id=newest.run_id)
    datasets = _newest_by_name(catalog.datasets())
    spent = sum(stage.usage.cpu_s for stage in stages if not stage.is_cache_hit)
    return OverviewView(
        status=_status(newest, stages, now),
        headlines=_headlines(numbers),
        data=tuple((item.name, _describe(item)) for item in datasets),
        licences=tuple(sorted({tag for item in datasets for tag in item.licences})),
        cost=f"The newest run used {duration(spent)} of processor time.",
    )


def draw(shown: OverviewView) -> None:
    """Put the view on the page."""
    st.title("Interloom")
    st.subheader(shown.status)
    for column, headline in zip(
        st.columns(max(1, len(shown.headlines))), shown.headlines, strict=False
    ):
        column.metric(
            headline.label,
            headline.value,
            headline.change,
            delta_color="normal" if headline.is_more_better else "inverse",
        )
    if shown.cost:
        st.write(shown.cost)
    if shown.data:
        st.subheader("What there is")
        st.table([{"name": name, "what": what} for name, what in shown.data])
    if shown.licences:
        st.write("Licences of everything in it: " + ", ".join(shown.licences))


def _status(newest: RunRecord, stages: Sequence[RunRecord], now: str) -> str:
    """One sentence on the newest pipeline."""
    reused = sum(stage.is_cache_hit for stage in stages)
    match newest.state:
        case RunState.RUNNING:
            current = [stage.job for stage in stages if stage.state is RunState.RUNNING]
            doing = f": now {', '.join(current)}" if current else ""
            done = sum(stage.state is RunState.COMPLETE for stage in stages)
            return f"{newest.recipe} is running{doing}; {done} stages are done."
        case RunState.COMPLETE:
            when = ago(newest.ended_at or newest.started_at, now)
            return f"{newest.recipe} finished {when}; {reused} of {len(stages)} stages were reused."
        case RunState.FAILED:
            return f"{newest.recipe} failed: {newest.error or 'see the page Runs'}"
        case RunState.ABORTED:
            return f"{newest.recipe} was stopped."


def _results(catalog: Catalog, pipeline: RunRecord) -> dict[str, float]:
    """The result metrics of all stages of a pipeline."""
    found: dict[str, float] = {}
    for stage in catalog.runs(parent_run_id=pipeline.run_id):
        found |= _final(catalog.metrics(stage.run_id))
    return found


def _final(metrics: Sequence[Metric]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics if metric.step is None}


def _headlines(numbers: Sequence[Mapping[str, float]]) -> tuple[Headline, ...]:
    """The numbers for everybody, those that exist."""
    if not numbers:
        return ()
    newest, before = numbers[0], numbers[1] if len(numbers) > 1 else {}
    shown = []
    for name, label, is_more_better in HEADLINES:
        if name in newest:
            change = newest[name] - before[name] if name in before else 0.0
            shown.append(
                Headline(
                    label,
                    f"{100 * newest[name]:.1f} %",
                    f"{100 * change:+.1f} points" if abs(change) >= 0.0005 else None,
                    is_more_better,
                )
            )
    return tuple(shown)


def _newest_by_name(versions: Sequence[DatasetVersion]) -> list[DatasetVersion]:
    newest: dict[str, DatasetVersion] = {}
    for version in versions:
        if version.name not in newest or newest[version.name].version < version.version:
            newest[version.name] = version
    return [newest[name] for name in sorted(newest)]


def _describe(item: DatasetVersion) -> str:
    """Version, size and content in words."""
    counts = [f"{amount(n)} {name.replace('_', ' ')}" for name, n in sorted(item.counts.items())]
    return ", ".join([f"version {item.version}", *counts, f"{amount(item.num_bytes)} bytes"])
