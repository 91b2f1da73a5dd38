"""From a document to the rows and steps that read it, and from a step back to its documents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.config.language_model import PretrainConfig
from interloom.config.mixture import MixtureConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, MissingError
from interloom.core.ids import new_run_id
from interloom.corpora.tables import DOCUMENTS, SPEECH_TOKENS, write_table
from interloom.mixture.order import RowOrder
from interloom.mixture.rows import load_rows
from interloom.mixture.tracing import place_document, rows_of_step, steps_with
from interloom.ports.catalog import Metric, Publication, RunStart
from interloom.ports.workspace import Workspace
from interloom.stages.contract import StageContract
from interloom.stages.mix import MixRequest, MixResult, mix
from interloom.stages.pretrain import PretrainRequest
from interloom.testing import catalog as catalogs
from interloom.testing.launcher import InlineLauncher
from interloom.testing.store import MemoryStore, stand_in
from interloom.text.bpe import FILE, TextTokenizer
from interloom_flows.tracing import find_rows, trace_row, trace_step

TOKENIZER = stand_in(MemoryStore(), ArtifactKind.TOKENIZER_MODEL)
NUM_STEPS = 5
CONFIG = PretrainConfig.model_validate(
    {"rows_per_batch": 2, "train": {"num_steps": NUM_STEPS, "learning_rate": 0.1}}
)


@pytest.fixture
def contract(tmp_path: Path) -> Iterator[StageContract]:
    store = MemoryStore()
    with catalogs.temporary() as catalog:
        yield StageContract(
            store=store, catalog=catalog, launcher=InlineLauncher(store), work_folder=tmp_path
        )


def table(contract: StageContract, kind: ArtifactKind, name: str, schema: Any, rows: Any) -> Any:
    facts = {"tokenizer": TOKENIZER.id, "codebook_size": 32}
    with contract.store.draft(kind) as draft:
        write_table(draft, name, schema, rows)
        return draft.commit(facts=facts, licences=("CC0-1.0",))


def publish(
    contract: StageContract, stage: str, ref: ArtifactRef, request_json: str = "{}", **more: Any
) -> str:
    key, run_id = stage.ljust(64, "0"), new_run_id()
    lease = contract.catalog.acquire(key, "me", ttl_s=60)
    assert lease is not None
    start = RunStart(run_id, stage, "tiny", stage_key=key, request_json=request_json)
    contract.catalog.start_run(start)
    inputs = more.pop("inputs", {})
    manifest = contract.store.manifest(ref)
    publication = Publication(run_id, "{}", inputs, {"made": ref}, (manifest,), **more)
    contract.catalog.publish(lease, publication)
    return run_id


@pytest.fixture
def mixed(contract: StageContract, tmp_path: Path) -> MixResult:
    documents: list[dict[str, Any]] = [
        {
            "id": f"d{index}",
            "split": "train",
            "text": "the fox sees the owl. " * (1 + index % 4),
            "source": "world",
            "licence": "MIT" if index == 7 else "CC0-1.0",
            "may_interleave": True,
            "facts": [],
        }
        for index in range(40)
    ]
    utterances = [
        {
            "id": f"u{index}",
            "split": "train",
            "speaker": "ann",
            "text": "the owl",
            "codes": [(index + place) % 32 for place in range(12)],
            "num_samples": 15360,
            "words": [],
            "source": "world",
            "licence": "CC0-1.0",
            "facts": [],
        }
        for index in range(20)
    ]
    stand_in(contract.store, ArtifactKind.TOKENIZER_MODEL)
    with contract.store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard(FILE) as shard:
            TextTokenizer.train(["the fox sees the owl"] * 4, vocab_size=270).save(shard.path)
        text_tokenizer = draft.commit()
    request = MixRequest(
        text=table(contract, ArtifactKind.TEXT_CORPUS, "documents", DOCUMENTS, documents),
        tokens=table(contract, ArtifactKind.SPEECH_TOKENS, "tokens", SPEECH_TOKENS, utterances),
        tokenizer=TOKENIZER,
        text_tokenizer=text_tokenizer,
        config=MixtureConfig.model_validate(
            {
                "row_length": 64,
                "total_tokens": 1500,
                "interleaved": None,
                "text": {"budget": {"kind": "rest"}},
            }
        ),
        seed=3,
    )
    for stage, ref in (("ingest", request.text), ("tokenize_speech", request.tokens)):
        publish(contract, stage, ref)
    result = mix(request, store=contract.store, work=Workspace(tmp_path))
    publish(contract, "mix", result.rows, mixture=result.mixture())
    return result


def rows_by_origin(
    contract: StageContract, rows: ArtifactRef, document: str
) -> dict[str, set[int]]:
    """The same, by looking at every row."""
    stored, found = load_rows(contract.store, rows), dict[str, set[int]]()
    for row in range(stored.num_rows):
        for origin in stored.origins(row):
            if origin.document_id == document:
                found.setdefault(origin.source, set()).add(row)
    return found


@pytest.mark.parametrize("document", ["d7", "u3"])
def test_a_document_is_placed_where_its_pieces_are(
    contract: StageContract, mixed: MixResult, document: str
) -> None:
    placed = list(place_document(contract.store, mixed.rows, document))

    expected = rows_by_origin(contract, mixed.rows, document)
    assert {held.source: set(held.rows) for held in placed if held.rows} == expected
    assert expected


def test_what_is_in_no_source_is_placed_nowhere(contract: StageContract, mixed: MixResult) -> None:
    assert list(place_document(contract.store, mixed.rows, "nobody")) == []


def test_the_mixture_that_is_recorded_is_the_one_that_was_drawn(mixed: MixResult) -> None:
    parts = {part.source: part for part in mixed.mixture()}

    assert set(parts) == {"text", "speech", "transcribe", "speak"}
    assert parts["text"].tokens_drawn == mixed.metric("mix/drawn/text")
    assert parts["speech"].epochs == 1


@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(1, 60),
    seed=st.integers(0, 9),
    rows_per_step=st.integers(1, 7),
    num_steps=st.integers(1, 30),
    data=st.data(),
)
def test_a_step_reads_a_row_exactly_if_the_row_is_read_by_the_step(
    num_rows: int, seed: int, rows_per_step: int, num_steps: int, data: st.DataObject
) -> None:
    order = RowOrder(num_rows, seed)
    row = data.draw(st.integers(0, num_rows - 1))

    steps = steps_with(order, [row], rows_per_step=rows_per_step, num_steps=num_steps)

    read = [rows_of_step(order, step, rows_per_step=rows_per_step) for step in range(num_steps)]
    assert list(steps) == [step for step, rows in enumerate(read) if row in rows]


def trained(contract: StageContract, rows: ArtifactRef) -> ArtifactRef:
    request = PretrainRequest(rows=rows, config=CONFIG, seed=1)
    with contract.store.draft(ArtifactKind.LANGUAGE_MODEL) as draft:
        with draft.shard("weights") as shard:
            shard.path.write_text("weights")
        model = draft.commit(parents=(rows,))
    publish(
        contract,
        "pretrain",
        model,
        request.model_dump_json(),
        inputs={"rows": rows},
        checkpoints={NUM_STEPS: model},
        metrics=(Metric("language_model/loss", 1.5), Metric("train/loss", 3.0, 1)),
    )
    return model


def test_a_row_of_a_corpus_is_followed_to_steps_checkpoint_and_numbers(
    contract: StageContract, mixed: MixResult
) -> None:
    model = trained(contract, mixed.rows)
    places = find_rows(contract.catalog, contract.store, "d7")

    traces = list(trace_row(contract.catalog, contract.store, "d7", places))

    assert [(place.shard, place.index) for place in places] == [
        ("documents/train-00000.parquet", 7)
    ]
    (held,) = [trace for trace in traces if trace.row_numbers]
    (read,) = held.trainings
    order = RowOrder(load_rows(contract.store, mixed.rows).num_rows, 1)
    expected = steps_with(order, held.row_numbers, rows_per_step=2, num_steps=NUM_STEPS)
    assert (held.source, read.steps) == ("text", expected)
    assert [(point.artifact, point.step) for point in read.checkpoints] == [(model, NUM_STEPS)]
    assert read.results == (("language_model/loss", 1.5),)


def test_a_step_is_followed_back_to_its_documents(
    contract: StageContract, mixed: MixResult
) -> None:
    model = trained(contract, mixed.rows)

    origins = trace_step(contract.catalog, contract.store, model, 2)

    stored = load_rows(contract.store, mixed.rows)
    rows = RowOrder(stored.num_rows, 1).rows(4, 6)
    expected = [origin.document_id for row in rows for origin in stored.origins(row)]
    assert [origin.document_id for origin in origins] == expected
    assert {origin.row for origin in origins} == set(rows)
    with pytest.raises(ConfigError, match="has steps 0 to 4, got 5"):
        trace_step(contract.catalog, contract.store, model, 5)
    with pytest.raises(ConfigError, match="was made by mix, which reads no packed rows"):
        trace_step(contract.catalog, contract.store, mixed.rows, 0)


def test_a_row_that_is_nowhere_is_missing(contract: StageContract, mixed: MixResult) -> None:
    with pytest.raises(MissingError, match="no published table has a row 'nobody'"):
        find_rows(contract.catalog, contract.store, "nobody")
    assert find_rows(contract.catalog, contract.store, "u3")[
        0
    ].artifact in contract.catalog.ancestors([mixed.rows])
