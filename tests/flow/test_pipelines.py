"""Pipelines under a real Prefect server. Stages are hollow; order, retries and catalog are real."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from interloom.bootstrap import Services, connect
from interloom.config.settings import Settings, load_settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError, TransientError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import RunStart, RunState
from interloom.ports.launcher import StageJob
from interloom.ports.progress import NoProgress, Progress
from interloom.stages.contract import StageContract
from interloom.testing import catalog as catalogs
from interloom.testing.hollow import HollowLauncher
from interloom.testing.store import stand_in
from interloom.testing.store import temporary as temporary_store
from interloom_flows.listening import CALLER, Caller
from interloom_flows.parameters import PipelineParameters
from interloom_flows.results import summarise

pytestmark = [
    pytest.mark.slow,
    # Prefect's own sockets and databases are closed by its garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

STARTER = PipelineParameters(recipe="starter")
RunFlow = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=240):
        yield


class Watching:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.reuses: list[str] = []
        self.seconds: dict[str, float] = {}
        self.failures: list[str] = []

    def started(self, stage: str) -> Progress:
        self.begun.append(stage)
        return NoProgress()

    def reused(self, stage: str) -> None:
        self.reuses.append(stage)

    def finished(self, stage: str, wall_s: float) -> None:
        self.seconds[stage] = wall_s

    def failed(self, stage: str, error: BaseException) -> None:
        self.failures.append(f"{stage}: {error}")


class World:
    """Services over hollow stages, for flows that are called in this process."""

    def __init__(self, services: Services, launcher: HollowLauncher) -> None:
        self.services = services
        self.launcher = launcher
        self.listener = Watching()

    def call(self, flow: RunFlow, parameters: PipelineParameters = STARTER) -> str:
        token = CALLER.set(Caller(self.services, self.listener))
        try:
            return flow(parameters)
        finally:
            CALLER.reset(token)


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    with temporary_store() as store, catalogs.temporary() as catalog:

        def make(before: Callable[[StageJob], None] | None = None, num_threads: int = 2) -> World:
            launcher = HollowLauncher(store, before=before)
            contract = StageContract(
                store=store, catalog=catalog, launcher=launcher, work_folder=tmp_path / "work"
            )
            settings = Settings(
                home=tmp_path, num_threads=num_threads, retry_delays_s=(0.0, 0.0), lease_ttl_s=5
            )
            return World(Services(settings, store, catalog, launcher, contract), launcher)

        yield make


def test_a_pipeline_runs_each_stage_once_and_the_next_reuses_all(make_world: MakeWorld) -> None:
    from interloom_flows.pipelines import pretraining_pipeline

    world = make_world()

    first = world.call(pretraining_pipeline)
    second = world.call(pretraining_pipeline)

    catalog = world.services.catalog
    one, two = (summarise(catalog, catalog.run(run_id)) for run_id in (first, second))
    assert len(world.launcher.launched) == len(set(world.launcher.launched)) == 12
    assert one.outputs == two.outputs
    assert list(world.listener.seconds) == world.launcher.launched
    assert sorted(world.listener.reuses) == sorted(world.launcher.launched)
    assert {"model", "chat_model", "evaluation"} <= one.outputs.keys()
    assert one.run.state is two.run.state is RunState.COMPLETE


def test_a_mixture_rerun_computes_from_mix_on(make_world: MakeWorld) -> None:
    from interloom_flows.pipelines import mixture_rerun, pretraining_pipeline

    world = make_world()
    world.call(pretraining_pipeline)
    del world.launcher.launched[:]

    world.call(
        mixture_rerun,
        STARTER.model_copy(update={"overrides": ("mixture.text.budget.share=0.25",)}),
    )

    assert world.launcher.launched == ["mix", "pretrain", "sft", "evaluate"]


def test_a_mixture_rerun_changes_nothing_else(make_world: MakeWorld) -> None:
    from interloom_flows.pipelines import mixture_rerun

    parameters = STARTER.model_copy(update={"overrides": ("seed=3",)})

    with pytest.raises(ConfigError, match=r"changes only mixture\.\*, got 'seed=3'"):
        make_world().call(mixture_rerun, parameters)


def test_a_nightly_evaluation_ends_with_the_evaluation(make_world: MakeWorld) -> None:
    from interloom_flows.pipelines import nightly_evaluation

    world = make_world()
    run_id = world.call(nightly_evaluation)

    assert world.services.catalog.run(run_id).job == "nightly_evaluation"
    assert world.launcher.launched[-1] == "evaluate"


def test_a_deployed_pipeline_asks_for_every_stage_before_the_first(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interloom_flows import pipelines

    world = make_world()

    def check(demand: Mapping[str, int]) -> None:
        raise ConfigError(f"no pool can take {', '.join(demand)}")

    monkeypatch.setattr(world.launcher, "check", check)
    monkeypatch.setattr(pipelines, "connect", lambda _: world.services)

    with pytest.raises(ConfigError, match=r"no pool can take ingest, .*, evaluate"):
        pipelines.pretraining_pipeline(STARTER)

    assert world.launcher.launched == []
    (run,) = world.services.catalog.runs(parent_run_id=None)
    assert run.state is RunState.FAILED


def test_what_may_heal_is_tried_again(make_world: MakeWorld) -> None:
    from interloom_flows.pipelines import pretraining_pipeline

    ailing = ["mix", "mix"]

    def before(job: StageJob) -> None:
        if job.stage in ailing:
            ailing.remove(job.stage)
            raise TransientError("the disk was away")

    world = make_world(before)
    run_id = world.call(pretraining_pipeline)

    states = [
        stage.state
        for stage in world.services.catalog.runs(parent_run_id=run_id)
        if stage.job == "mix"
    ]
    assert sorted(states) == [RunState.COMPLETE, RunState.FAILED, RunState.FAILED]
    assert world.listener.failures == ["mix: the disk was away"] * 2


def test_bad_data_is_not_tried_again_and_ends_the_run(make_world: MakeWorld) -> None:
    from interloom_flows.pipelines import pretraining_pipeline

    def before(job: StageJob) -> None:
        if job.stage == "mix":
            raise DataError("row 7 is empty")

    world = make_world(before)

    with pytest.raises(DataError, match="row 7 is empty"):
        world.call(pretraining_pipeline)

    (run, *_) = world.services.catalog.runs()
    assert (run.state, run.error) == (RunState.FAILED, "row 7 is empty")
    assert world.listener.failures == ["mix: row 7 is empty"]
    assert world.launcher.is_stopped.is_set()
    assert "pretrain" not in world.launcher.launched


def test_decoder_and_text_to_token_train_side_by_side(make_world: MakeWorld) -> None:
    from interloom_flows.pipelines import pretraining_pipeline

    both = threading.Barrier(2)

    def before(job: StageJob) -> None:
        if job.stage in {"train_decoder", "train_text_to_token"}:
            both.wait(timeout=60)  # raises unless the other one runs, too

    world = make_world(before)

    assert world.services.catalog.run(world.call(pretraining_pipeline)).state is RunState.COMPLETE


def test_stages_never_use_more_threads_than_there_are(make_world: MakeWorld) -> None:
    from interloom_flows.pipelines import pretraining_pipeline

    alone = threading.Lock()

    def before(job: StageJob) -> None:
        assert alone.acquire(blocking=False), f"{job.stage} began while another stage ran"
        threading.Event().wait(0.05)
        alone.release()

    world = make_world(before, num_threads=1)

    assert world.services.catalog.run(world.call(pretraining_pipeline)).state is RunState.COMPLETE


def test_housekeeping_flows_open_services_of_their_own_and_do_their_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.client.orchestration import get_client

    from interloom_flows.pipelines import lineage_exporter, reconciler, sweeper

    told = tmp_path / "events.jsonl"
    monkeypatch.setenv("INTERLOOM_HOME", str(tmp_path))
    monkeypatch.setenv("INTERLOOM_STAGING_GRACE_S", "0")
    monkeypatch.setenv("INTERLOOM_OPENLINEAGE_FILE", str(told))
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    lost = publish_and_lose()
    (tmp_path / "work" / "left-behind").mkdir(parents=True)

    assert sweeper() == 1
    assert reconciler() == 1
    assert (lineage_exporter(), lineage_exporter()) == (2, 0)

    assert not (tmp_path / "work" / "left-behind").exists()
    assert [json.loads(line)["eventType"] for line in told.read_text().splitlines()] == [
        "START",
        "COMPLETE",
    ]
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        runs = {flows[run.flow_id]: run for run in client.read_flow_runs()}
        ended = [(name, run.state_name) for name, run in runs.items()]
    assert set(ended) >= {
        ("sweeper", "Completed"),
        ("reconciler", "Completed"),
        ("lineage-exporter", "Completed"),
    }
    assert lost.id[:12] in caplog.text


def publish_and_lose() -> ArtifactRef:
    """An artifact of the installation whose bytes are gone, and the two events of its run."""
    services = connect(load_settings())
    run_id = new_run_id()
    services.catalog.start_run(RunStart(run_id, "ingest_text", "mine"))
    lost = stand_in(services.store, ArtifactKind.TEXT_CORPUS)
    services.catalog.publish_dataset("mine", services.store.manifest(lost), run_id)
    services.catalog.end_run(run_id, RunState.COMPLETE)
    (shard,) = services.store.manifest(lost).shards
    services.store.local_path(shard).unlink()
    services.close()
    return lost


def test_every_deployment_names_a_flow_and_parameters_that_load() -> None:
    import yaml

    from interloom_flows import pipelines
    from interloom_flows.pipelines import pretraining_pipeline

    root = Path(__file__).parents[2]
    deployments = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]

    assert pretraining_pipeline.name == "pretraining-pipeline"
    for deployment in deployments:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(pipelines, name)
        assert module == pipelines.__name__
        assert flow.validate_parameters(deployment.get("parameters", {})) is not None
