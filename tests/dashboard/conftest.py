"""A small installation with one finished pipeline, as the pages find it."""

import json
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.sql_catalog import SqlCatalog
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.ids import new_run_id
from interloom.corpora.tables import INTERLEAVED, write_table
from interloom.ports.catalog import Metric, Publication, RunStart, RunState, Usage
from interloom.ports.gate import CheckResult
from interloom.vocabulary.layout import Marker, VocabularyLayout

LAYOUT = VocabularyLayout(300, 16, text_tokenizer="t" * 64, tokenizer="s" * 64)
TEXT = "the cat <sat> on the mat."


@dataclass(frozen=True)
class World:
    home: Path
    catalog: SqlCatalog
    store: FolderStore
    pipeline: str
    interleaved: ArtifactRef
    evaluation: ArtifactRef


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    home = tmp_path / "home"
    home.mkdir()
    catalog = SqlCatalog.connect(f"sqlite:///{home / 'catalog.sqlite'}")
    store = FolderStore(home / "store")
    pipeline = new_run_id()
    catalog.start_run(RunStart(pipeline, "pipeline", "starter"))
    interleaved = _interleaved(store)
    evaluation = _evaluation(store)
    checks = (CheckResult("spans", "spans are disjoint", success=True, observed="all 1 rows"),)
    metrics = (Metric("train/loss", 3.0, 10), Metric("train/loss", 2.0, 20))
    _publish(catalog, store, pipeline, "interleave", interleaved, metrics, checks)
    numbers = (
        Metric("tokenizer/wer", 0.08),
        Metric("cloze/S->S/story", 0.6),
        Metric("cloze/S->S/story/low", 0.5),
        Metric("cloze/S->S/story/high", 0.7),
        Metric("cloze/S->S/story/n", 100.0),
    )
    _publish(catalog, store, pipeline, "evaluate", evaluation, numbers, (), interleaved)
    catalog.end_run(pipeline, RunState.COMPLETE)
    yield World(home, catalog, store, pipeline, interleaved, evaluation)
    catalog.close()


def _interleaved(store: FolderStore) -> ArtifactRef:
    ids = [
        1,
        LAYOUT.marker(Marker.AUDIO_BEGIN),
        LAYOUT.speech_offset + 3,
        LAYOUT.speech_offset + 5,
        LAYOUT.marker(Marker.AUDIO_END),
        2,
    ]
    span = {
        "span_id": "doc-1/0",
        "word_start": 2,
        "word_stop": 4,
        "byte_start": 8,
        "byte_stop": 16,
        "id_start": 1,
        "id_stop": 5,
        "num_codes": 2,
        "cut": False,
        "outcome": "spoken",
        "attempts": 1,
    }
    row = {
        "id": "doc-1",
        "split": "train",
        "ids": ids,
        "source": "test",
        "licence": "CC0-1.0",
        "text": TEXT,
        "spans": [span],
    }
    with store.draft(ArtifactKind.INTERLEAVED) as draft:
        write_table(draft, "interleaved", INTERLEAVED, [row])
        with draft.shard("report.json") as shard:
            shard.path.write_text(json.dumps({"shards": [_shard("published"), _bad_shard()]}))
        return draft.commit(licences=("CC0-1.0",), facts={"layout": LAYOUT.to_dict()})


def _shard(verdict: str, **changes: object) -> dict[str, object]:
    sums = dict.fromkeys(
        ("refused_spans", "pace", "share_difference", "length_deviation", "error_rate"), 0.5
    )
    return {
        "name": "00000",
        "verdict": verdict,
        "documents": 4,
        "rows": 1,
        "broken_rows": 0,
        "speech_tokens": 2,
        "sums": sums,
        "failed": [],
        "left_out": {"too short": 3, "nothing spoken": 0},
        "outcomes": {"spoken": 1},
        "lengths_seen": [0, 1, 2],
        "lengths_expected": [0, 1.5, 2],
    } | changes


def _bad_shard() -> dict[str, object]:
    return _shard(
        "quarantined",
        failed=["most spans could be spoken"],
        left_out={},
        outcomes={"loop": 2},
        lengths_seen=[0, 3],
        lengths_expected=[0, 2],
    )


def _evaluation(store: FolderStore) -> ArtifactRef:
    with store.draft(ArtifactKind.EVALUATION) as draft:
        with draft.shard("chat_answer.wav") as shard, wave.open(str(shard.path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.zeros(1600, np.int16).tobytes())
        with draft.shard("examples.json") as shard:
            shard.path.write_text(
                json.dumps([{"path": "chat_answer.wav", "title": "The bot answers"}])
            )
        return draft.commit()


def _publish(
    catalog: SqlCatalog,
    store: FolderStore,
    pipeline: str,
    stage: str,
    output: ArtifactRef,
    metrics: tuple[Metric, ...],
    checks: tuple[CheckResult, ...],
    source: ArtifactRef | None = None,
) -> None:
    run_id, key = new_run_id(), output.id
    catalog.start_run(RunStart(run_id, stage, "starter", pipeline, key))
    lease = catalog.acquire(key, "test", ttl_s=60)
    assert lease is not None
    field = "interleaved" if stage == "interleave" else "evaluation"
    catalog.publish(
        lease,
        Publication(
            run_id,
            result_json="{}",
            inputs={"interleaved": source} if source else {},
            outputs={field: output},
            manifests=(store.manifest(output),),
            metrics=metrics,
            checks=checks,
            usage=Usage(wall_s=75.0, cpu_s=125.0, peak_rss_bytes=2_000_000_000),
        ),
    )
