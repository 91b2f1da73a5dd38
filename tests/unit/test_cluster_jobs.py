"""What is sent to a cluster is valid, and what comes back is understood."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from interloom.adapters.catalog.rendezvous import Rendezvous
from interloom.adapters.cluster.logs import _order
from interloom.adapters.cluster.manifests import Attempt, rank_job, train_job
from interloom.adapters.cluster.pods import Ended, Why, ended, not_made, waiting
from interloom.adapters.cluster.rank import (
    Place,
    PodSettings,
    ReplacementError,
    group_environment,
    meet,
)
from interloom.adapters.sql_catalog import migrate
from interloom.config.cluster import ClusterProfile, load_cluster_profile
from interloom.core.errors import ConfigError, TransientError
from interloom.ports.launcher import StageJob

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "infra/base/cluster-profile.json"
PROGRAM = ("-m", "interloom.stages")
KEY = "7f3a91c2" * 8
Json = dict[str, Any]


def profile() -> ClusterProfile:
    return load_cluster_profile(PROFILE)


def job(stage: str = "pretrain", num_ranks: int = 2) -> StageJob:
    return StageJob(stage, "{}", Path("/store/work") / KEY, num_ranks, threads_per_rank=3)


def rank(number: int = 0, num_ranks: int = 2, server: tuple[int, int] = (1, 34)) -> Json:
    return rank_job(
        job(num_ranks=num_ranks),
        profile(),
        attempt=Attempt(1, "meeting-1"),
        rank=number,
        program=PROGRAM,
        server=server,
    )


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
def test_the_job_of_a_rank_passes_strict_validation(version: str) -> None:
    for num_ranks in (1, 2):
        for stage in ("pretrain", "interleave", "tokenize_speech"):
            body = rank_job(
                job(stage, num_ranks),
                profile(),
                attempt=Attempt(3, "m"),
                rank=num_ranks - 1,
                program=PROGRAM,
                server=(1, 34),
            )
            kubernetes_validate.validate(body, version, strict=True)


def test_a_failure_policy_is_sent_to_servers_that_know_it_only() -> None:
    assert "podFailurePolicy" in rank(server=(1, 26))["spec"]
    assert "podFailurePolicy" not in rank(server=(1, 20))["spec"]


def test_the_name_of_a_job_follows_from_stage_key_attempt_and_rank() -> None:
    assert rank(1)["metadata"]["name"] == "pretrain-7f3a91c27f-a1-r1"
    assert rank(1) == rank(1)


def test_only_ranks_that_must_find_each_other_get_the_catalog() -> None:
    together = rank()["spec"]["template"]["spec"]["containers"][0]
    alone = rank(num_ranks=1)["spec"]["template"]["spec"]["containers"][0]

    assert together["command"][:3] == ["python", "-m", "interloom.adapters.cluster.rank"]
    assert alone["command"][:4] == ["python", *PROGRAM, "pretrain"]
    wanted = {"INTERLOOM_DATABASE_URL", "INTERLOOM_POD_IP", "INTERLOOM_POD_UID"}
    assert wanted <= {entry["name"] for entry in together["env"]}
    assert not wanted & {entry["name"] for entry in alone["env"]}


def test_threads_and_numerics_are_those_of_a_local_run() -> None:
    env = {
        e["name"]: e.get("value")
        for e in rank()["spec"]["template"]["spec"]["containers"][0]["env"]
    }

    assert (env["OMP_NUM_THREADS"], env["PYTHONHASHSEED"]) == ("3", "0")


def test_a_train_job_passes_our_strict_schema_and_counts_nodes_by_gpus() -> None:
    schema = json.loads((Path(__file__).parent / "schemas/trainjob.json").read_text())
    body = train_job(job(num_ranks=16), profile(), attempt=1, program=PROGRAM)

    jsonschema.Draft202012Validator(schema).validate(body)

    trainer = body["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "896Gi", "nvidia.com/gpu": "8"}
    grace = {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": str(profile().grace_s)}
    assert grace in trainer["env"]
    assert body["spec"]["suspend"] is True
    assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "train"


def test_the_schema_finds_a_misspelt_field_of_a_train_job() -> None:
    schema = json.loads((Path(__file__).parent / "schemas/trainjob.json").read_text())
    body = train_job(job(num_ranks=8), profile(), attempt=1, program=PROGRAM)
    body["spec"]["trainer"]["gpus"] = 8

    with pytest.raises(jsonschema.ValidationError, match="gpus"):
        jsonschema.Draft202012Validator(schema).validate(body)


def pod(phase: str = "Pending", **status: Any) -> Json:
    return {"metadata": {"name": "p"}, "status": {"phase": phase, **status}}


def container(state: str, **body: Any) -> list[Json]:
    return [{"name": "stage", "image": "a/b:1", "state": {state: body}}]


@pytest.mark.parametrize(
    ("shown", "why", "words"),
    [
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]),
            Why.NO_NODE,
            "0/3 nodes",
        ),
        (
            pod(containerStatuses=container("waiting", reason="ErrImagePull", message="no such")),
            Why.IMAGE,
            "a/b:1: no such",
        ),
        (
            pod(containerStatuses=container("waiting", reason="InvalidImageName")),
            Why.IMAGE,
            "InvalidImageName",
        ),
        (
            pod(
                containerStatuses=container(
                    "waiting", reason="CreateContainerConfigError", message="secret not found"
                )
            ),
            Why.BROKEN,
            "secret not found",
        ),
    ],
)
def test_a_pod_that_waits_says_why(shown: Json, why: Why, words: str) -> None:
    found = waiting(shown)

    assert found is not None
    assert found.why is why
    assert words in str(found)


def test_a_pod_that_is_being_made_or_runs_does_not_wait() -> None:
    creating = container("waiting", reason="ContainerCreating")

    assert waiting(pod(containerStatuses=creating)) is None
    assert waiting(pod("Running", containerStatuses=container("running"))) is None


def test_a_job_whose_pod_is_refused_says_why() -> None:
    event = {
        "involvedObject": {"name": "job-1"},
        "reason": "FailedCreate",
        "message": "exceeded quota: team",
    }

    found = not_made("job-1", [event])

    assert found is not None
    assert "exceeded quota: team" in str(found)
    assert not_made("job-2", [event]) is None


@pytest.mark.parametrize(
    ("shown", "end"),
    [
        (pod("Running", containerStatuses=container("running")), None),
        (pod("Succeeded", containerStatuses=container("terminated", exitCode=0)), Ended(0)),
        (pod("Failed", containerStatuses=container("terminated", exitCode=65)), Ended(65)),
        (
            pod("Failed", containerStatuses=container("terminated", exitCode=143)),
            Ended(143, is_taken_away=True),
        ),
        (
            pod(
                "Failed",
                containerStatuses=container("terminated", exitCode=137, reason="OOMKilled"),
            ),
            Ended(137, is_out_of_memory=True),
        ),
        (pod("Failed", reason="Evicted"), Ended(143, is_taken_away=True)),
        (
            pod(
                "Failed",
                conditions=[{"type": "DisruptionTarget", "status": "True"}],
                containerStatuses=container("terminated", exitCode=1),
            ),
            Ended(1, is_taken_away=True),
        ),
    ],
)
def test_how_a_pod_ended_is_told_apart(shown: Json, end: Ended | None) -> None:
    assert ended(shown) == end


def test_log_lines_are_ordered_however_short_their_fraction() -> None:
    stamps = [
        "2026-11-20T08:00:00Z",
        "2026-11-20T08:00:00.1Z",
        "2026-11-20T08:00:00.12Z",
        "2026-11-20T08:00:00.123456789+00:00",
        "2026-11-20T08:00:01Z",
    ]

    assert sorted(stamps, key=_order) == stamps


def meeting_place(folder: Path) -> Rendezvous:
    url = f"sqlite:///{folder / 'catalog.sqlite'}"
    migrate(url)
    return Rendezvous.connect(url)


def pod_settings(number: int) -> PodSettings:
    return PodSettings.model_validate(
        {"pod_ip": f"10.0.0.{number}", "pod_uid": f"uid-{number}", "database_url": "unused"}
    )


def test_ranks_find_rank_0_by_the_catalog(tmp_path: Path) -> None:
    rendezvous = meeting_place(tmp_path)
    rendezvous.announce("m", 0, member="uid-0", address="10.0.0.0")

    address = meet(rendezvous, Place("m", 1, 2), pod=pod_settings(1))

    assert address == "10.0.0.0"
    assert rendezvous.addresses("m") == {0: "10.0.0.0", 1: "10.0.0.1"}
    assert rendezvous.addresses("another") == {}
    rendezvous.close()


def test_a_pod_that_takes_a_ranks_place_is_told_apart(tmp_path: Path) -> None:
    rendezvous = meeting_place(tmp_path)
    rendezvous.announce("m", 0, member="uid-0", address="10.0.0.0")

    with pytest.raises(ReplacementError, match="rank 0 was announced by another pod"):
        meet(rendezvous, Place("m", 0, 2), pod=pod_settings(7))
    assert meet(rendezvous, Place("m", 0, 1), pod=pod_settings(0)) == "10.0.0.0"
    rendezvous.close()


def test_ranks_that_do_not_come_are_named(tmp_path: Path) -> None:
    rendezvous = meeting_place(tmp_path)

    with pytest.raises(TransientError, match=r"rank 1 of 3 waited 2 s in vain for ranks \[0, 2\]"):
        meet(rendezvous, Place("m", 1, 3), pod=pod_settings(1), wait_s=2, sleep=lambda _: None)
    rendezvous.close()


def test_a_rank_gets_what_torchrun_would_set() -> None:
    env = group_environment(Place("m", 3, 4), "10.0.0.9")

    assert (env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"]) == ("3", "4", "0")
    assert (env["MASTER_ADDR"], env["TORCHELASTIC_RUN_ID"]) == ("10.0.0.9", "m")


def test_a_stage_of_a_pool_that_nobody_has_is_refused() -> None:
    broken = profile().model_copy(update={"stages": {"pretrain": "gold"}})

    with pytest.raises(ConfigError, match=r"'pretrain' goes to pool 'gold'.*it has cpu, gpu-"):
        broken.pool("pretrain")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "cannot be read: No such file"),
        ('{"pools": {}, "default_pool": "cpu", "pod": {}, "poools": 1}', "poools: Extra inputs"),
        ("{", "the file: Invalid JSON"),
    ],
)
def test_a_profile_that_cannot_be_used_is_named(
    body: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "profile.json"
    if body is not None:
        path.write_text(body)

    with pytest.raises(ConfigError, match=message):
        load_cluster_profile(path)


def test_a_cluster_launcher_without_a_profile_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="set INTERLOOM_CLUSTER_PROFILE"):
        load_cluster_profile(None)
