"""Cards are written from lineage; lineage goes both ways."""

from collections.abc import Iterator

import pytest

from interloom.adapters.sql_catalog import SqlCatalog
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, Shard
from interloom.core.errors import MissingError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import (
    Metric,
    MixtureComponent,
    Publication,
    RunStart,
    Usage,
    Verdict,
    Verification,
)
from interloom.ports.gate import CheckResult
from interloom.testing import catalog as catalogs
from interloom_flows.cards import card
from interloom_flows.tracing import artifact_lineage, find_artifact


@pytest.fixture
def catalog() -> Iterator[SqlCatalog]:
    with catalogs.temporary() as catalog:
        yield catalog


def manifest(
    kind: ArtifactKind, *parents: ArtifactRef, licence: str = "MIT", **counts: int
) -> Manifest:
    heard = ("research",) if counts.get("samples") else ()
    shard = Shard("rows", kind.value.ljust(64, "0"), "0" * 32, 10, counts)
    return Manifest(kind, (shard,), parents, (licence,), consents=heard)


def publish(
    catalog: SqlCatalog, stage: str, made: Manifest, price: float, **more: object
) -> Manifest:
    key = stage.ljust(64, "0")
    lease = catalog.acquire(key, "me", ttl_s=60)
    assert lease is not None
    run_id = new_run_id()
    start = RunStart(run_id, stage, "tiny", stage_key=key, numeric_class="image|cuda", num_ranks=8)
    catalog.start_run(start)
    usage = Usage(3600.0, 7200.0, 1, "h200", 8, price)
    field = "model" if made.kind.is_model else "rows"
    publication = Publication(run_id, "{}", {}, {field: made.ref}, (made,), usage=usage, **more)  # type: ignore[arg-type]
    catalog.publish(lease, publication)
    return made


@pytest.fixture
def model(catalog: SqlCatalog) -> ArtifactRef:
    """The end of a chain of three stages at 1, 2 and 4 a stage."""
    corpus = publish(
        catalog,
        "ingest",
        manifest(ArtifactKind.SPEECH_CORPUS, licence="CC0-1.0", rows=5, samples=57_600_000),
        1.0,
    )
    rows = publish(
        catalog,
        "mix",
        manifest(ArtifactKind.PACKED_ROWS, corpus.ref),
        2.0,
        mixture=(MixtureComponent("speech", 1000, 990, 0.5),),
    )
    made = manifest(ArtifactKind.LANGUAGE_MODEL, rows.ref)
    return publish(
        catalog,
        "pretrain",
        made,
        4.0,
        metrics=(Metric("loss", 2.5, 1), Metric("language_model/loss", 1.25)),
        checks=(CheckResult("weights", "are finite", success=True, observed="all"),),
        checkpoints={400: made.ref},
    ).ref


def test_cost_is_summed_along_lineage_and_no_further(
    catalog: SqlCatalog, model: ArtifactRef
) -> None:
    held = artifact_lineage(catalog, model)
    middle = artifact_lineage(catalog, find_artifact(catalog, "tiny/mix.rows@1"))

    assert (held.price, held.gpu_hours, held.cpu_hours) == (7.0, 24.0, 6.0)
    assert [made.run.job for made in held.ancestors] == ["ingest", "mix"]
    assert middle.price == 3.0
    assert [made.artifact for made in middle.descendants] == [model]


def test_an_artifact_is_found_by_name_version_kind_and_id(
    catalog: SqlCatalog, model: ArtifactRef
) -> None:
    for what in (
        "tiny/pretrain.model",
        "tiny/pretrain.model@1",
        f"language_model:{model.id}",
        f"language_model:{model.id[:9]}",
        model.id[:9],
    ):
        assert find_artifact(catalog, what) == model
    with pytest.raises(MissingError, match="no artifact begins with 'nothing'"):
        find_artifact(catalog, "nothing")


def test_a_model_card_says_what_lineage_knows(catalog: SqlCatalog, model: ArtifactRef) -> None:
    run_id, at = str(catalog.producer(model)), "2026-01-01T10:00"
    catalog.record_verification(Verification(model, run_id, at, Verdict.IDENTICAL, "all"))

    text = card(catalog, model, currency="EUR")

    for line in (
        "# Model card: tiny/pretrain.model@1",
        f"- id: `{model.id}` (sha256 of its manifest)",
        "- CC0-1.0: tiny/ingest.rows",
        "- MIT: tiny/mix.rows, tiny/pretrain.model",
        "- research: tiny/ingest.rows",
        "| tiny/ingest.rows | 1 | 5 | 1.00 |",
        "| speech | 1,000 | 990 | 0.50 |",
        "- trained for 400 optimizer steps",
        "- machine: image, cuda; 8 ranks of 1 threads",
        "- with all that it was made from: 6.00 processor hours, 24.00 GPU-hours, 7.00 EUR",
        "| language_model/loss | 1.25 |",
        "- weights: are finite: holds, all",
        "- made again at 2026-01-01T10:00: identical: all",
    ):
        assert line in text.splitlines()
    assert "| loss |" not in text


def test_a_data_card_names_the_models_that_use_it(catalog: SqlCatalog, model: ArtifactRef) -> None:
    rows = find_artifact(catalog, "tiny/ingest.rows")

    text = card(catalog, rows, currency="EUR")

    assert text.startswith("# Data card: tiny/ingest.rows@1\n")
    assert "- tiny/pretrain.model@1 (language model)" in text
    assert "None yet. Make it again and compare" in text
    assert catalog.resolve_artifact(model.id) == model
