"""Is the data right? Verdicts of the gate, and interleaved rows to look at and listen to."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import streamlit as st

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import MissingError
from interloom.corpora.tables import read_table
from interloom.ports.catalog import Catalog
from interloom.ports.gate import CheckResult
from interloom.ports.store import ArtifactStore
from interloom.vocabulary.layout import VocabularyLayout
from interloom_dashboards import shards
from interloom_dashboards.shards import ShardsView
from interloom_dashboards.words import amount

Codes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SpanView:
    """One synthesised span of a document."""

    span_id: str
    text: str
    codes: Codes
    outcome: str


@dataclass(frozen=True, slots=True)
class RowView:
    """One interleaved document: its text with the spoken spans marked."""

    row_id: str
    marked_html: str
    spans: tuple[SpanView, ...]


@dataclass(frozen=True, slots=True)
class QualityView:
    """Verdicts on one artifact, and what it holds.

    Attributes:
        title: The artifact.
        verdict: How many checks hold, in one sentence.
        checks: Each of them.
        counts: Of the manifest.
        shards: Its data docs, if it has some.
    """

    title: str
    verdict: str
    checks: tuple[CheckResult, ...]
    counts: Mapping[str, int]
    shards: ShardsView | None = None


def view(catalog: Catalog, store: ArtifactStore, artifact: ArtifactRef) -> QualityView:
    """The gate's verdicts on an artifact."""
    checks = tuple(catalog.checks(artifact))
    failed = [check for check in checks if not check.success]
    verdict = f"All {len(checks)} checks hold." if checks else "No check was made of this data."
    if failed:
        verdict = f"{len(failed)} of {len(checks)} checks do not hold."
    manifest = store.manifest(artifact)
    names = sorted({name for shard in manifest.shards for name in shard.counts})
    return QualityView(
        str(artifact),
        verdict,
        checks,
        {name: manifest.count(name) for name in names},
        shards.view(store, artifact),
    )


def rows(store: ArtifactStore, artifact: ArtifactRef, start: int, count: int) -> list[RowView]:
    """Interleaved rows ``start`` to ``start + count`` of the training split."""
    offset = VocabularyLayout.from_dict(store.manifest(artifact).facts["layout"]).speech_offset
    found = islice(read_table(store, artifact, "interleaved"), start, start + count)
    return [_row(row, offset) for row in found]


def _row(row: Mapping[str, Any], offset: int) -> RowView:
    data = row["text"].encode()
    spans = []
    marked = []
    at = 0
    for span in row["spans"]:
        said = data[span["byte_start"] : span["byte_stop"]].decode()
        marked += [
            html.escape(data[at : span["byte_start"]].decode()),
            f"<mark title='{span['num_codes']} speech tokens'>{html.escape(said)}</mark>",
        ]
        at = span["byte_stop"]
        ids = row["ids"][span["id_start"] : span["id_stop"]]
        codes = tuple(i - offset for i in ids if i >= offset)
        spans.append(SpanView(span["span_id"], said, codes, span["outcome"]))
    marked.append(html.escape(data[at:].decode()))
    return RowView(row["id"], "".join(marked), tuple(spans))


def decoder_of(catalog: Catalog, artifact: ArtifactRef) -> ArtifactRef | None:
    """The newest published decoder of the tokenizer that the artifact's pipeline used."""
    producer = catalog.producer(artifact)
    if producer is None:
        return None
    parent = catalog.run(producer).parent_run_id
    runs = catalog.runs(parent_run_id=parent) if parent else ()
    edges = catalog.edges([run.run_id for run in runs])
    models = [edge.artifact for edge in edges if edge.artifact.kind is ArtifactKind.DECODER_MODEL]
    return models[-1] if models else None


def sound(store: ArtifactStore, decoder: ArtifactRef, codes: Codes) -> tuple[Any, int]:
    """The waveform of a span, and its sample rate.

    Raises:
        MissingError: torch is not installed where the dashboard runs.
    """
    import numpy as np

    try:
        from interloom.speech_decoder.runtime import load_speech_decoder
    except ModuleNotFoundError as error:
        raise MissingError(
            f"playing a span needs {error.name}; install interloom[train] beside the dashboard"
        ) from error
    model = load_speech_decoder(store, decoder)
    return model.decode(np.array(codes, np.int32)), model.sample_rate_hz


def draw_checks(shown: QualityView) -> None:
    """Put the verdicts on the page."""
    st.subheader(shown.verdict)
    st.caption(", ".join(f"{amount(n)} {name}" for name, n in shown.counts.items()))
    if shown.checks:
        st.dataframe([_check_line(check) for check in shown.checks], hide_index=True)
    if shown.shards is not None:
        shards.draw(shown.shards)


def _check_line(check: CheckResult) -> dict[str, str]:
    return {
        "": "✓" if check.success else "✗",
        "what must hold": check.expectation,
        "seen": check.observed,
        "rows that break it": ", ".join(check.failed_rows[:5]),
    }


def draw_rows(shown: Sequence[RowView], play: Any) -> None:
    """Put rows on the page; ``play(codes)`` gives a waveform and its rate."""
    for row in shown:
        st.markdown(row.marked_html, unsafe_allow_html=True)
        if not row.spans:
            continue
        with st.expander(f"{row.row_id}: {len(row.spans)} spans"):
            for span in row.spans:
                st.write(f"“{span.text}” · {len(span.codes)} tokens · {span.outcome}")
                st.code(" ".join(map(str, span.codes)), language=None, wrap_lines=True)
                if span.codes and st.button("Play", key=f"play-{row.row_id}-{span.span_id}"):
                    waveform, rate_hz = play(span.codes)
                    st.line_chart(waveform[:: max(1, len(waveform) // 800)], height=120)
                    st.audio(waveform, sample_rate=rate_hz)
