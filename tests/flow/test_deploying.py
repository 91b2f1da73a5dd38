"""``interloom deploy`` against a Prefect server of its own."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from interloom.config.environment import environment
from interloom.core.errors import ConfigError, MissingError
from interloom_flows.deployments import DeploymentFile, load_deployments
from interloom_flows.prefect_home import prefect_api

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with prefect_api(tmp_path) as url, temporary_settings({PREFECT_API_URL: url}):
        yield url


def wanted() -> DeploymentFile:
    return load_deployments(ROOT / "prefect.yaml")


def changes(file: DeploymentFile, *, applies: bool) -> list[str]:
    from interloom_flows.deploying import deploy

    return [str(change) for change in deploy(file, ROOT, applies=applies)]


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_deploying_shows_what_differs_and_does_it_once() -> None:
    shown = changes(wanted(), applies=False)
    around = wanted().around
    pieces = (wanted().deployments, around.queues, around.pools)
    assert len(shown) == sum(map(len, pieces)) + 2  # and the work pool, and the automation
    assert all(line.endswith(": new") for line in shown)

    assert changes(wanted(), applies=True) == shown
    assert changes(wanted(), applies=True) == []

    pretraining, *others = wanted().deployments
    changed = pretraining.model_copy(update={"concurrency_limit": 3, "parameters": {"a": 1}})
    around = around.model_copy(update={"pools": {"gpu-train": 5}, "silent_after_s": 99})
    other = wanted().model_copy(
        update={
            "deployments": (changed, *others),
            "definitions": wanted().definitions.model_copy(update={"interloom": around}),
        }
    )
    was, first = (
        "{'parameters': {'recipe': 'starter'}}",
        "deployment pretraining-pipeline/pretraining:",
    )
    assert changes(other, applies=True) == [
        "limit interloom-gpu-train: limit: 2 -> 5",
        f"{first} parameters: {was} -> {{'a': 1}}; concurrency limit: 1 -> 3",
        "automation interloom: silent runs have crashed: silent for: 180.0 -> 99.0",
    ]
    assert changes(other, applies=False) == []


SILENT_FLOW = """
import time
from prefect import flow

@flow
def silent():
    time.sleep(600)

silent()
"""


@contextmanager
def running(command: list[str], env: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A process, killed on leaving."""
    null = subprocess.DEVNULL
    with subprocess.Popen(command, env=env, stdout=null, stderr=null) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.nightly
def test_a_run_that_was_killed_without_a_word_is_told_to_have_crashed(tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}/api"
    env = {
        **environment(),
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_URL": url,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
    server = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--port", port]
    around = wanted().around.model_copy(update={"silent_after_s": 45})
    definitions = wanted().definitions.model_copy(update={"interloom": around})
    file = wanted().model_copy(update={"definitions": definitions})
    with running(server, env), temporary_settings({PREFECT_API_URL: url}):
        wait_for(lambda: answers(f"{url}/health"), 240)
        changes(file, applies=True)
        with get_client(sync_client=True) as client:

            def states() -> list[str]:
                return [str(run.state.name) for run in client.read_flow_runs() if run.state]

            with running([sys.executable, "-c", SILENT_FLOW], env):
                wait_for(lambda: "Running" in states(), 120)
                time.sleep(10)  # for the first sign of life to arrive
            wait_for(lambda: states() == ["Crashed"], 180)


def answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(condition: Callable[[], bool], limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not so within {limit_s} s"
        time.sleep(1)


def test_every_deployment_names_a_flow_and_a_queue_that_exist() -> None:
    from prefect.flows import load_flow_from_entrypoint

    file = wanted()
    for deployment in file.deployments:
        assert load_flow_from_entrypoint(deployment.entrypoint).name
        assert deployment.work_pool.work_queue_name in file.around.queues


def test_limits_are_set_for_the_pools_of_the_cluster_profile() -> None:
    from interloom.config.cluster import load_cluster_profile

    profile = load_cluster_profile(ROOT / "infra/base/cluster-profile.json")

    assert set(wanted().around.pools) == set(profile.pools)


def test_a_file_that_is_not_there_or_has_an_unknown_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prefect.yaml"
    with pytest.raises(MissingError, match="call this in the repository's root"):
        load_deployments(path)

    path.write_text((ROOT / "prefect.yaml").read_text().replace("queues:", "queuess:"))
    with pytest.raises(ConfigError, match=r"definitions\.interloom\.queues: Field required"):
        load_deployments(path)
