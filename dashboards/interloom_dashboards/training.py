"""How training goes: loss, tokens and gradient by source and modality, speed, spikes, alarms."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.mixture.rows import StoredRows, load_rows
from interloom.ports.catalog import Catalog, Metric
from interloom.ports.store import ArtifactStore
from interloom.quality.alarms import Alarm, alarms, training_alarms
from interloom.text.bpe import TextTokenizer, load_text_tokenizer
from interloom.vocabulary.layout import VocabularyLayout
from interloom_dashboards.words import amount

Curves = Mapping[str, Mapping[int, float]]
Codes = tuple[int, ...]

_SPIKE = "train/spike"
_ROW = "train/spike/row/"
_FAMILIES = (
    ("train/loss/", "Loss by what is predicted and where it is from"),
    ("train/token_share/", "Share of the tokens that are learnt"),
    ("train/gradient_share/", "Share of the gradient: who pulls at the model"),
)
_SPEED = (
    ("telemetry/tokens_per_s", "tokens a second", 1.0),
    ("telemetry/mfu", "% of the machine's peak", 100.0),
    ("telemetry/data_wait_share", "% of the time waiting for data", 100.0),
    ("telemetry/peak_memory_bytes", "GB of memory at most", 1e-9),
)


@dataclass(frozen=True, slots=True)
class Spike:
    """A step whose loss leapt, and the rows of its worst micro-batch."""

    step: int
    deviations: float
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a row in one modality, from one document."""

    origin: str
    text: str
    codes: Codes


@dataclass(frozen=True, slots=True)
class TrainingView:
    """One training stage of a pipeline.

    Attributes:
        stage: Its name.
        speed: The last numbers, in words.
        families: Curves that belong on one chart, under their titles.
        spikes: In the order of their steps.
        alarms: What looks like a known failure.
        rows: The packed rows that it was trained on; None if it made its own.
    """

    stage: str
    speed: tuple[tuple[str, str], ...]
    families: Mapping[str, Curves]
    spikes: tuple[Spike, ...]
    alarms: tuple[Alarm, ...]
    rows: ArtifactRef | None


def view(catalog: Catalog, run_id: str) -> tuple[TrainingView, ...]:
    """Every stage of a pipeline that has curves."""
    stages = catalog.runs(parent_run_id=catalog.run(run_id).run_id)
    shown = []
    for stage in stages:
        points = [metric for metric in catalog.metrics(stage.run_id) if metric.step is not None]
        if points:
            inputs = [edge.artifact for edge in catalog.edges([stage.run_id]) if not edge.is_output]
            rows = [ref for ref in inputs if ref.kind is ArtifactKind.PACKED_ROWS]
            shown.append(_training(stage.job, points, rows[0] if rows else None))
    return tuple(shown)


def run_alarms(catalog: Catalog, run_id: str) -> list[Alarm]:
    """What the results of a pipeline, beside the complete one before it, look like."""
    run = catalog.run(run_id)
    older = [
        other
        for other in catalog.runs(limit=100)
        if other.recipe == run.recipe
        and other.started_at < run.started_at
        and other.state == "complete"
    ]
    before = _results(catalog, older[0].run_id) if older else None
    return alarms(_results(catalog, run.run_id), before)


def pieces(store: ArtifactStore, rows: ArtifactRef, row: int) -> tuple[Piece, ...]:
    """One packed row as a person can read and hear it."""
    layout = VocabularyLayout.from_dict(store.manifest(rows).facts["layout"])
    text = load_text_tokenizer(
        store, ArtifactRef(ArtifactKind.TEXT_TOKENIZER, layout.text_tokenizer)
    )
    held: StoredRows = load_rows(store, rows)
    tokens = [int(token) for token in held.tokens(row)]
    found: list[Piece] = []
    at = 0
    for origin in held.origins(row):
        name = f"{origin.source}: {origin.document_id}"
        found += _runs(name, tokens[at : at + origin.num_tokens], layout, text)
        at += origin.num_tokens
    return tuple(found)


def draw_alarms(found: Sequence[Alarm]) -> None:
    """Put alarms on the page, or say that there are none."""
    if not found:
        st.success("Nothing looks like a known failure.")
    for alarm in found:
        st.warning(f"{alarm.signature} ({alarm.observed}): {alarm.meaning}")


def draw(
    shown: TrainingView,
    read: Callable[[ArtifactRef, int], Sequence[Piece]],
    play: Callable[[Codes], tuple[Any, int]],
) -> None:
    """Put one stage on the page.

    Args:
        shown: What to draw.
        read: Gives the pieces of a row.
        play: Gives the waveform of speech codes, and its rate.
    """
    st.subheader(shown.stage)
    draw_alarms(shown.alarms)
    for column, (label, value) in zip(
        st.columns(max(1, len(shown.speed))), shown.speed, strict=False
    ):
        column.metric(label, value)
    for title, curves in shown.families.items():
        st.caption(title)
        st.line_chart({name: dict(points) for name, points in curves.items()}, x_label="step")
    for spike in shown.spikes:
        with st.expander(f"step {spike.step}: {spike.deviations:.0f} deviations above the median"):
            st.write(f"rows {', '.join(map(str, spike.rows))}")
            if shown.rows is not None:
                _draw_rows(shown.rows, spike, read, play)


def _draw_rows(
    rows: ArtifactRef,
    spike: Spike,
    read: Callable[[ArtifactRef, int], Sequence[Piece]],
    play: Callable[[Codes], tuple[Any, int]],
) -> None:
    for row in spike.rows:
        for number, piece in enumerate(read(rows, row)):
            st.caption(piece.origin)
            if piece.text:
                st.markdown(html.escape(piece.text))
            key = f"spike-{spike.step}-{row}-{number}"
            if piece.codes and st.button(f"Play {len(piece.codes)} tokens", key=key):
                waveform, rate_hz = play(piece.codes)
                st.audio(waveform, sample_rate=rate_hz)


def _training(stage: str, points: Sequence[Metric], rows: ArtifactRef | None) -> TrainingView:
    curves: dict[str, dict[int, float]] = {}
    for point in points:
        if point.step is not None:
            curves.setdefault(point.name, {})[point.step] = point.value
    families = {
        title: {
            name.removeprefix(begin): held
            for name, held in sorted(curves.items())
            if name.startswith(begin)
        }
        for begin, title in _FAMILIES
    }
    return TrainingView(
        stage=stage,
        speed=tuple(_speed(curves)),
        families={title: held for title, held in families.items() if held},
        spikes=tuple(_spikes(curves)),
        alarms=tuple(training_alarms(points)),
        rows=rows,
    )


def _speed(curves: Curves) -> list[tuple[str, str]]:
    """The last of each number that hangs on the clock."""
    found = []
    for name, label, factor in _SPEED:
        if name in curves:
            last = curves[name][max(curves[name])] * factor
            found.append((label, amount(last) if last >= 1000 else f"{last:.3g}"))
    return found


def _spikes(curves: Curves) -> list[Spike]:
    found = []
    for step, deviations in sorted(curves.get(_SPIKE, {}).items()):
        rows = [
            int(name.removeprefix(_ROW))
            for name, held in curves.items()
            if name.startswith(_ROW) and step in held
        ]
        found.append(Spike(step, deviations, tuple(sorted(rows))))
    return found


def _runs(
    origin: str, tokens: Sequence[int], layout: VocabularyLayout, text: TextTokenizer
) -> list[Piece]:
    """Neighbouring tokens of one modality as one piece; markers part them."""
    found: list[Piece] = []
    words: list[int] = []
    codes: list[int] = []

    def close() -> None:
        if words:
            found.append(Piece(origin, text.decode(words), ()))
        if codes:
            found.append(Piece(origin, "", tuple(codes)))
        words.clear()
        codes.clear()

    ids = np.array(tokens, np.int32)
    kinds = zip(tokens, layout.is_speech(ids).tolist(), layout.is_text(ids).tolist(), strict=True)
    for token, is_speech, is_text in kinds:
        if (is_speech and words) or (is_text and codes) or not (is_speech or is_text):
            close()
        if is_speech:
            codes += layout.codes(np.array([token])).tolist()
        elif is_text:
            words.append(token)
    close()
    return found


def _results(catalog: Catalog, run_id: str) -> dict[str, float]:
    return {
        metric.name: metric.value
        for stage in catalog.runs(parent_run_id=run_id)
        for metric in catalog.metrics(stage.run_id)
        if metric.step is None
    }
