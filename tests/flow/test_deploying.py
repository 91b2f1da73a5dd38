"""``interloom deploy`` against a Prefect server of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
    assert len(shown) == 11
    assert all(line.endswith(": new") for line in shown)

    assert changes(wanted(), applies=True) == shown
    assert changes(wanted(), applies=True) == []

    pretraining, *others = wanted().deployments
    changed = pretraining.model_copy(update={"concurrency_limit": 3, "parameters": {"a": 1}})
    around = wanted().around.model_copy(update={"pools": {"gpu-train": 5}, "silent_after_s": 99})
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
