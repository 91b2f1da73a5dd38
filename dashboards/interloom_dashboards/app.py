"""The dashboard: ``streamlit run`` this file, or ``interloom dashboard``."""

from datetime import UTC, datetime

import streamlit as st

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import InterloomError
from interloom.ports.catalog import RunRecord
from interloom_dashboards import comparison, lineage, overview, quality, results, runs, training
from interloom_dashboards.world import services


def overview_page() -> None:
    """The first page."""
    now = datetime.now(UTC).isoformat()
    overview.draw(overview.view(services().catalog, now=now))


def runs_page() -> None:
    """Stages, curves and numbers of a pipeline, beside another one."""
    st.title("Runs")
    run = _choose_run("Run")
    if run is None:
        return
    shown = runs.view(services().catalog, run.run_id)
    runs.draw(shown)
    other = _choose_run("Compare with", beside=run)
    if other is not None:
        st.dataframe(
            runs.compare(runs.view(services().catalog, other.run_id), shown), hide_index=True
        )


def training_page() -> None:
    """Curves by source and modality, speed, spikes with their rows, alarms."""
    st.title("Training")
    run = _choose_run("Run")
    if run is None:
        return
    world = services()
    training.draw_alarms(training.run_alarms(world.catalog, run.run_id))
    stages = {shown.stage: shown for shown in training.view(world.catalog, run.run_id)}
    if not stages:
        st.info("This run has trained nothing yet. Try: interloom run starter")
        return
    names = list(stages)
    first = names.index("pretrain") if "pretrain" in names else 0
    shown = stages[st.selectbox("Stage", names, index=first)]

    def play(codes: training.Codes) -> tuple[object, int]:
        decoder = None if shown.rows is None else quality.decoder_of(world.catalog, shown.rows)
        if decoder is None:
            raise InterloomError("no decoder was trained in this data's pipeline")
        return quality.sound(world.store, decoder, codes)

    try:
        training.draw(shown, lambda rows, row: training.pieces(world.store, rows, row), play)
    except InterloomError as error:
        st.error(str(error))


def comparison_page() -> None:
    """The arms of a sweep, or any runs of one recipe."""
    st.title("Comparison")
    found = comparison.recipes(services().catalog)
    if not found:
        st.info(
            "No recipe has two complete runs to compare. Try: interloom run starter, and then "
            "interloom sweep starter --grid interleave.spans.speech_ratio=0.2,0.4"
        )
        return
    shown = comparison.view(services().catalog, st.selectbox("Recipe", found))
    chosen = st.multiselect("Results", list(shown.names), default=list(shown.first_names))
    comparison.draw(shown, chosen)


def lineage_page() -> None:
    """What was made from what."""
    st.title("Lineage")
    run = _choose_run("Run")
    if run is not None:
        lineage.draw(lineage.view(services().catalog, run.run_id))


def quality_page() -> None:
    """Checks and rows of interleaved data."""
    st.title("Data quality")
    artifact = _choose_artifact("Data", (ArtifactKind.INTERLEAVED,))
    if artifact is None:
        return
    world = services()
    quality.draw_checks(quality.view(world.catalog, world.store, artifact))
    start = int(st.number_input("From row", min_value=0, value=0, step=5))
    decoder = quality.decoder_of(world.catalog, artifact)

    def play(codes: quality.Codes) -> tuple[object, int]:
        if decoder is None:
            raise InterloomError("no decoder was trained in this data's pipeline")
        return quality.sound(world.store, decoder, codes)

    try:
        quality.draw_rows(quality.rows(world.store, artifact, start, 5), play)
    except InterloomError as error:
        st.error(str(error))


def results_page() -> None:
    """Numbers with intervals, examples to hear."""
    st.title("Results")
    artifact = _choose_artifact("Evaluation", (ArtifactKind.EVALUATION,))
    if artifact is not None:
        results.draw(results.view(services().catalog, services().store, artifact))


def _choose_run(label: str, beside: RunRecord | None = None) -> RunRecord | None:
    """A select box of pipelines, newest first."""
    found = [run for run in services().catalog.runs(limit=50) if run != beside]
    if not found:
        if beside is None:
            st.info("Nothing has run yet. Try: interloom run starter")
        return None
    names = {run.run_id: f"{run.recipe} · {run.run_id[:8]} · {run.state}" for run in found}
    chosen = st.selectbox(label, list(names), format_func=names.__getitem__)
    return next((run for run in found if run.run_id == chosen), None)


def _choose_artifact(label: str, kinds: tuple[ArtifactKind, ...]) -> ArtifactRef | None:
    """A select box of published artifacts of these kinds, newest first."""
    found = [item for item in services().catalog.datasets() if item.ref.kind in kinds]
    if not found:
        st.info(f"No {' or '.join(kinds)} has been published yet. Try: interloom run starter")
        return None
    names = {item.ref: f"{item.name} · version {item.version}" for item in found}
    chosen: ArtifactRef | None = st.selectbox(label, list(names), format_func=names.__getitem__)
    return chosen


def main() -> None:
    """Draw the page that the address asks for."""
    st.set_page_config(page_title="Interloom", layout="wide")
    pages = [
        st.Page(overview_page, title="Overview", default=True),
        st.Page(runs_page, title="Runs", url_path="runs"),
        st.Page(training_page, title="Training", url_path="training"),
        st.Page(comparison_page, title="Comparison", url_path="comparison"),
        st.Page(lineage_page, title="Lineage", url_path="lineage"),
        st.Page(quality_page, title="Data quality", url_path="quality"),
        st.Page(results_page, title="Results", url_path="results"),
    ]
    st.navigation(pages).run()


if __name__ == "__main__":
    main()
