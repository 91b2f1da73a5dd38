"""One key, one publisher, all or nothing."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError, LeaseLostError, TransientError
from interloom.ports.catalog import RunState, Usage
from interloom.ports.launcher import LOG_FILE, JobReport, StageJob
from interloom.ports.progress import Progress
from interloom.stages.contract import (
    StageCall,
    StageContract,
    execute_stage,
    lookup,
    stage_key,
    why_not,
)
from interloom.stages.pricing import Prices
from interloom.stages.registry import STAGES, load_stage
from interloom.stages.sweeping import sweep
from interloom.testing import catalog as catalogs
from interloom.testing.launcher import InlineLauncher
from interloom.testing.probe import REGISTRY, Ending, ProbeRequest


@pytest.fixture
def contract(tmp_path: Path) -> Iterator[StageContract]:
    store = FolderStore(tmp_path / "store")
    with catalogs.temporary() as catalog:
        yield StageContract(
            store=store,
            catalog=catalog,
            launcher=InlineLauncher(store, registry=REGISTRY),
            work_folder=tmp_path / "work",
            log_folder=tmp_path / "logs",
            registry=REGISTRY,
        )


def call(
    text: str = "hello", ending: Ending = "well", source: ArtifactRef | None = None
) -> StageCall:
    request = ProbeRequest(text=text, ending=ending, source=source)
    return StageCall(stage="probe", request=request, recipe="tiny")


def num_runs(contract: StageContract) -> int:
    assert isinstance(contract.launcher, InlineLauncher)
    return contract.launcher.num_runs


def test_a_stage_is_executed_once_and_then_reused(contract: StageContract) -> None:
    first = execute_stage(contract, call())
    second = execute_stage(contract, call())

    assert (first.is_hit, second.is_hit, num_runs(contract)) == (False, True, 1)
    assert first.result == second.result
    assert contract.catalog.run(second.run_id).is_cache_hit
    assert contract.catalog.dataset("tiny/probe.corpus").version == 1
    assert not (contract.work_folder / first.stage_key).exists()


def test_the_log_of_a_complete_stage_outlives_its_workspace(
    contract: StageContract, tmp_path: Path
) -> None:
    folder = contract.work_folder / stage_key(contract, call())
    folder.mkdir(parents=True)
    (folder / LOG_FILE).write_text("step 1\n")

    outcome = execute_stage(contract, call())

    assert not folder.exists()
    assert (tmp_path / "logs" / f"{outcome.run_id}.txt").read_text() == "step 1\n"


def test_what_a_stage_read_and_wrote_is_in_the_catalog(contract: StageContract) -> None:
    source = execute_stage(contract, call("source")).result.outputs()["corpus"]

    made = execute_stage(contract, call("made", source=source))

    edges = {(edge.name, edge.is_output) for edge in contract.catalog.edges([made.run_id])}
    assert edges == {("source", False), ("corpus", True)}
    assert contract.catalog.metrics(made.run_id)[0].value == 4
    assert contract.catalog.consumers(source) == [made.run_id]


@pytest.mark.parametrize(
    "other",
    [
        replace(call(), request=ProbeRequest(text="other")),
        replace(call(), threads_per_rank=1),
        replace(call(), num_ranks=2),
    ],
)
def test_the_key_changes_with_all_that_can_change_the_result(
    contract: StageContract, other: StageCall
) -> None:
    assert stage_key(contract, call()) != stage_key(contract, other)


def test_the_key_changes_with_the_image_and_not_with_the_run(contract: StageContract) -> None:
    key = stage_key(contract, call())

    assert key != stage_key(replace(contract, numeric_class="sha256:abc|cuda"), call())
    assert key == stage_key(contract, replace(call(), recipe="other", parent_run_id="x"))


def test_damaged_bytes_are_made_anew(contract: StageContract) -> None:
    made = execute_stage(contract, call())
    store = contract.store
    assert isinstance(store, FolderStore)
    path = store.object_path(store.manifest(made.result.outputs()["corpus"]).shards[0].md5)
    path.chmod(0o644)
    path.write_text("HELLO")

    assert lookup(contract, made.stage_key) is None
    assert why_not(contract, call()) == "bytes of its result are missing or damaged in the store"
    again = execute_stage(contract, call())

    assert (again.is_hit, again.result) == (False, made.result)
    assert path.read_text() == "hello"
    assert contract.catalog.dataset("tiny/probe.corpus").version == 1


def test_why_a_stage_must_run_is_said_in_words(contract: StageContract) -> None:
    assert why_not(contract, call()) == "never ran in this recipe"
    execute_stage(contract, call())

    assert why_not(contract, call()) == ""
    assert why_not(contract, call("other")) == "changed: text"
    source = ArtifactRef(ArtifactKind.TASKS, "0" * 64)
    assert why_not(contract, call("other", source=source)) == "changed: source, text"
    assert "another image" in why_not(replace(contract, numeric_class="gpu"), call())


def test_a_stage_that_fails_publishes_nothing_and_may_be_tried_again(
    contract: StageContract,
) -> None:
    failed = call(ending="transient")

    with pytest.raises(TransientError, match="resource is away"):
        execute_stage(contract, failed)

    record = contract.catalog.run(failed.run_id)
    assert (record.state, record.error) == (RunState.FAILED, "the probe's resource is away")
    assert contract.catalog.datasets() == []
    assert contract.catalog.leased(ttl_s=60) == frozenset()
    assert (contract.work_folder / str(record.stage_key) / "steps").read_text() == "."


def test_a_check_that_fails_keeps_the_result_from_being_published(contract: StageContract) -> None:
    with pytest.raises(DataError, match=r"probe: 'ends well' does not hold.*first rows: row-7"):
        execute_stage(contract, failed := call(ending="failed_check"))

    assert contract.catalog.datasets() == []
    (verdict,) = contract.catalog.run_checks(failed.run_id)
    assert (verdict.expectation, verdict.success) == ("ends well", False)


def test_a_stage_asked_for_anew_executes_and_replaces_its_result(contract: StageContract) -> None:
    first = execute_stage(contract, call())

    again = execute_stage(contract, replace(call(), is_fresh=True))

    assert (again.is_hit, num_runs(contract)) == (False, 2)
    hit = contract.catalog.find(first.stage_key)
    assert hit is not None
    assert hit.run_id == again.run_id
    assert contract.catalog.dataset("tiny/probe.corpus").version == 1


def test_what_a_stage_cost_is_kept_with_what_it_ran_on(contract: StageContract) -> None:
    class Working(InlineLauncher):
        def run(self, job: StageJob, *, progress: Progress) -> JobReport:
            report = super().run(job, progress=progress)
            return replace(report, wall_s=3600.0, cpu_s=7200.0)

    priced = replace(
        contract,
        launcher=Working(contract.store, registry=REGISTRY),
        prices=Prices(node_kind="desk", gpu_hour=3.0, cpu_hour=0.5),
        numeric_class="image|cuda",
    )

    made = execute_stage(priced, call())

    usage = contract.catalog.run(made.run_id).usage
    # The probe computes with no torch, so it holds no GPU.
    assert (usage.node_kind, usage.num_gpus, usage.price) == ("desk", 0, 1.0)
    assert contract.catalog.run(made.run_id).numeric_class == "image|cuda"


def test_a_stage_with_torch_holds_a_gpu_for_each_rank() -> None:
    report = JobReport("{}", wall_s=1800.0, cpu_s=3600.0, peak_rss_bytes=1)

    usage = Prices(gpu_hour=3.0, cpu_hour=0.5).usage(report, num_gpus=8)

    assert (usage.gpu_hours, usage.price) == (4.0, 12.5)


def test_an_input_that_is_not_published_is_refused(contract: StageContract) -> None:
    unknown = ArtifactRef(ArtifactKind.TASKS, "0" * 64)

    with pytest.raises(DataError, match="input 'source' of stage 'probe' is not published"):
        execute_stage(contract, call(source=unknown))


def test_an_unknown_stage_is_refused_with_those_there_are(contract: StageContract) -> None:
    with pytest.raises(ConfigError, match="there is no stage 'prob'; the stages are probe"):
        stage_key(contract, replace(call(), stage="prob"))


class SlowLauncher(InlineLauncher):
    """Waits for leave before the stage ends."""

    def __init__(self, contract: StageContract) -> None:
        super().__init__(contract.store, registry=REGISTRY)
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        self.has_begun.set()
        assert self.may_end.wait(30)
        return super().run(job, progress=progress)


def test_of_two_runners_one_executes_and_the_other_waits_for_its_result(
    contract: StageContract,
) -> None:
    launcher = SlowLauncher(contract)
    shared = replace(contract, launcher=launcher, lease_ttl_s=2.0)
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(execute_stage(shared, call())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert launcher.has_begun.wait(30)
    time.sleep(0.3)  # both have looked by now; one beats, the other waits
    launcher.may_end.set()
    for thread in threads:
        thread.join(30)

    assert sorted(outcome.is_hit for outcome in outcomes) == [False, True]
    assert launcher.num_runs == 1


def test_a_runner_that_lost_its_lease_cannot_publish(contract: StageContract) -> None:
    class ThiefLauncher(InlineLauncher):
        def run(self, job: StageJob, *, progress: Progress) -> JobReport:
            report = super().run(job, progress=progress)
            assert contract.catalog.acquire(job.folder.name, "thief", ttl_s=0) is not None
            return report

    robbed = replace(contract, launcher=ThiefLauncher(contract.store, registry=REGISTRY))

    with pytest.raises(LeaseLostError, match="another runner took over"):
        execute_stage(robbed, call())

    assert contract.catalog.datasets() == []


def test_sweeping_spares_leased_and_young_workspaces(contract: StageContract) -> None:
    for name in ("leased", "orphan"):
        (contract.work_folder / name).mkdir(parents=True)
    assert contract.catalog.acquire("leased", "me", ttl_s=60) is not None

    assert sweep(contract, grace_s=3600).folders == 0
    assert sweep(contract, grace_s=0).folders == 1
    assert [folder.name for folder in contract.work_folder.iterdir()] == ["leased"]


def test_a_hit_costs_nothing(contract: StageContract) -> None:
    execute_stage(contract, call())

    assert execute_stage(contract, call()).usage == Usage()


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_can_be_loaded_alone(name: str) -> None:
    definition = load_stage(name)

    assert definition.function.__name__ == name
    assert "store" in definition.ports
