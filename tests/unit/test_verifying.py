"""Making an artifact a second time, and the verdict."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from interloom.adapters.sql_catalog import SqlCatalog
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, MissingError, TransientError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import RunStart, RunState, Verdict
from interloom.ports.launcher import JobReport, StageJob
from interloom.ports.progress import Progress
from interloom.stages.contract import StageCall, StageContract, execute_stage
from interloom.stages.verifying import _with_ranks, verify_artifact
from interloom.testing import catalog as catalogs
from interloom.testing.launcher import InlineLauncher
from interloom.testing.probe import REGISTRY, ProbeRequest
from interloom.testing.store import MemoryStore


class Other(InlineLauncher):
    """Runs the stage with another text: what a stage does that is not a function of its request."""

    text = "hellp"

    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        request = {**json.loads(job.request_json), "text": self.text}
        return super().run(replace(job, request_json=json.dumps(request)), progress=progress)


class Longer(Other):
    text = "hello, hello"


class Away(InlineLauncher):
    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        raise TransientError(f"the machine is away, {job.stage} at {progress}")


@pytest.fixture
def contract(tmp_path: Path) -> Iterator[StageContract]:
    store = MemoryStore()
    with catalogs.temporary() as catalog:
        yield StageContract(
            store=store,
            catalog=catalog,
            launcher=InlineLauncher(store, registry=REGISTRY),
            work_folder=tmp_path / "work",
            numeric_class="image|cpu",
            registry=REGISTRY,
        )


def made(contract: StageContract) -> ArtifactRef:
    call = StageCall(stage="probe", request=ProbeRequest(text="hello"), recipe="tiny")
    return execute_stage(contract, call).result.outputs()["corpus"]


def test_equal_bytes_are_identical_and_the_verdict_is_kept(contract: StageContract) -> None:
    artifact = made(contract)

    verification = verify_artifact(contract, artifact)

    assert verification.verdict is Verdict.IDENTICAL
    assert "1 shards, 5 bytes" in verification.detail
    assert contract.catalog.verifications(artifact) == [verification]
    record = contract.catalog.run(verification.run_id)
    assert (record.job, record.state) == ("verify", RunState.COMPLETE)
    assert contract.catalog.dataset("tiny/probe.corpus").version == 1
    assert list(contract.work_folder.iterdir()) == []


def test_other_bytes_in_the_same_numeric_class_are_different(contract: StageContract) -> None:
    artifact = made(contract)
    other = replace(contract, launcher=Other(contract.store, registry=REGISTRY))

    verification = verify_artifact(other, artifact)

    assert verification.verdict is Verdict.DIFFERENT
    assert "1 of 1 shards differ: text/train-00000.txt" in verification.detail


def test_another_numeric_class_may_give_other_bytes_and_close_numbers(
    contract: StageContract,
) -> None:
    artifact = made(contract)
    other = replace(
        contract,
        launcher=Other(contract.store, registry=REGISTRY),
        numeric_class="image|cuda",
    )

    verification = verify_artifact(other, artifact)

    assert verification.verdict is Verdict.WITHIN_TOLERANCE
    assert "numeric class image|cpu -> image|cuda" in verification.detail


def test_code_that_has_changed_since_is_named(contract: StageContract) -> None:
    artifact = made(contract)
    catalog = contract.catalog
    assert isinstance(catalog, SqlCatalog)
    with catalog._database.transaction() as connection:
        connection.exec_driver_sql("UPDATE job_version SET code_digest = 'older'")
    other = replace(contract, launcher=Other(contract.store, registry=REGISTRY))

    verification = verify_artifact(other, artifact)

    assert verification.verdict is Verdict.DIFFERENT
    assert "the stage's code has changed since" in verification.detail


def test_numbers_that_are_far_apart_are_different_in_any_class(contract: StageContract) -> None:
    artifact = made(contract)
    other = replace(
        contract,
        launcher=Longer(contract.store, registry=REGISTRY),
        numeric_class="image|cuda",
    )

    verification = verify_artifact(other, artifact)

    assert verification.verdict is Verdict.DIFFERENT
    assert "140.00% (length)" in verification.detail


def test_a_fault_while_verifying_gives_no_verdict(contract: StageContract) -> None:
    artifact = made(contract)
    away = replace(contract, launcher=Away(contract.store, registry=REGISTRY))

    with pytest.raises(TransientError, match="the machine is away"):
        verify_artifact(away, artifact)

    assert contract.catalog.verifications(artifact) == []


def test_what_no_stage_made_cannot_be_verified(contract: StageContract) -> None:
    with contract.store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        with draft.shard("rows") as shard:
            shard.path.write_text("rows")
        own = draft.commit()
    with pytest.raises(MissingError, match="is not published"):
        verify_artifact(contract, own)
    run_id = new_run_id()
    contract.catalog.start_run(RunStart(run_id, "ingest_text", "own"))
    contract.catalog.publish_dataset("own", contract.store.manifest(own), run_id)

    with pytest.raises(MissingError, match="no stage made it"):
        verify_artifact(contract, own)


def test_the_number_of_ranks_is_for_stages_that_train(contract: StageContract) -> None:
    artifact = made(contract)

    with pytest.raises(ConfigError, match="--ranks is for stages that train"):
        verify_artifact(contract, artifact, num_ranks=2)


def test_another_number_of_ranks_keeps_the_batch_of_a_step() -> None:
    from interloom.stages.pretrain import PretrainRequest

    rows = ArtifactRef(ArtifactKind.PACKED_ROWS, "0" * 64)
    train = {"num_steps": 10, "learning_rate": 0.1, "gradient_accumulation": 4}
    request = PretrainRequest.model_validate({"rows": rows, "config": {"train": train}})

    spread = _with_ranks(request, 2)

    assert isinstance(spread, PretrainRequest)
    assert (spread.config.train.num_ranks, spread.config.train.gradient_accumulation) == (2, 2)
    assert spread.config.rows_per_step == request.config.rows_per_step
    with pytest.raises(ConfigError, match="cannot be divided among 3 ranks"):
        _with_ranks(request, 3)
