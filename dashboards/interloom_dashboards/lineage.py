"""What was made from what, as a graph."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from interloom.ports.catalog import Catalog, LineageEdge


@dataclass(frozen=True, slots=True)
class LineageView:
    """A graph in DOT, and how large it is."""

    title: str
    dot: str
    num_artifacts: int


def view(catalog: Catalog, run_id: str) -> LineageView:
    """The graph of one pipeline: stages as boxes, artifacts as ellipses."""
    run = catalog.run(run_id)
    stages = catalog.runs(parent_run_id=run.run_id)
    edges = catalog.edges([stage.run_id for stage in stages])
    reused = {stage.job for stage in stages if stage.is_cache_hit}
    return LineageView(
        title=f"{run.recipe} · {run.run_id[:8]}",
        dot=to_dot(edges, reused),
        num_artifacts=len({edge.artifact for edge in edges}),
    )


def to_dot(edges: Sequence[LineageEdge], reused: set[str]) -> str:
    """DOT of a bipartite graph. Stages that were reused are dashed; models are filled."""
    lines = ["digraph lineage {", "rankdir=LR; node [fontname=sans-serif fontsize=11];"]
    for job in sorted({edge.job for edge in edges}):
        style = "dashed" if job in reused else "solid"
        lines.append(f'"{job}" [shape=box style="{style}"];')
    for artifact in sorted({edge.artifact for edge in edges}):
        fill = "#d6eaf8" if artifact.kind.is_model else "#fdf2d0"
        label = f"{artifact.kind.replace('_', ' ')}\\n{artifact.id[:8]}"
        lines.append(
            f'"{artifact.id}" [shape=ellipse style=filled fillcolor="{fill}" label="{label}"];'
        )
    for edge in edges:
        ends = (edge.job, edge.artifact.id) if edge.is_output else (edge.artifact.id, edge.job)
        lines.append(f'"{ends[0]}" -> "{ends[1]}";')
    return "\n".join([*lines, "}"])


def draw(shown: LineageView) -> None:
    """Put the view on the page."""
    st.subheader(shown.title)
    st.caption(f"{shown.num_artifacts} artifacts. Dashed stages were reused; blue ones are models.")
    st.graphviz_chart(shown.dot, width="stretch")
