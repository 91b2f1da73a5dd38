"""Stages as plain Jobs of a real cluster: run, explained, re-attached, cancelled, killed."""

import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from interloom.adapters.cluster.api import JOBS, PODS
from interloom.adapters.cluster.launcher import ClusterLauncher
from interloom.adapters.cluster.opening import open_cluster_launcher
from interloom.core.errors import ConfigError, DataError, InterloomError, TransientError
from interloom.ports.launcher import JobReport, StageJob
from interloom.ports.progress import NoProgress
from interloom.testing.local_cluster import HOST, Site, kubectl, pod_template
from interloom.testing.probe import PROGRAM, ProbeRequest, ProbeResult
from interloom.testing.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, s3_server


class Told:
    """Keeps what a person would see."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def update(self, done: int, total: int | None, note: str = "") -> None:  # noqa: ARG002
        self.notes.append(note)


def launcher(site: Site, **changes: Any) -> ClusterLauncher:
    return open_cluster_launcher("jobs", site.profile(**changes), PROGRAM)


def job(site: Site, num_ranks: int = 1, **request: Any) -> StageJob:
    body = ProbeRequest.model_validate({"text": "hello"} | request).model_dump_json()
    return StageJob("probe", body, site.folder / "work" / uuid4().hex, num_ranks)


def jobs_of(site: Site, stage: StageJob) -> list[dict[str, Any]]:
    return site.api.items(JOBS, labelSelector=f"interloom.dev/stage-key={stage.key[:40]}")


def pods_of(site: Site, stage: StageJob) -> list[dict[str, Any]]:
    return site.api.items(PODS, labelSelector=f"interloom.dev/stage-key={stage.key[:40]}")


def wait_for(condition: Callable[[], object], limit_s: float = 90) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not so within {limit_s} s"
        time.sleep(0.2)


def steps(stage: StageJob) -> int:
    path = stage.folder / "steps"
    return len(path.read_text()) if path.is_file() else 0


def in_background(run: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_stage_runs_in_a_pod_and_its_result_log_and_usage_come_back(site: Site) -> None:
    stage, told = job(site, num_steps=3, step_s=0.2), Told()

    report = launcher(site).run(stage, progress=told)

    result = ProbeResult.model_validate_json(report.result_json)
    assert result.metric("length") == 5
    assert told.notes[-1] == "step 3"
    assert "stage probe begins" in (stage.folder / "log.txt").read_text()
    assert report.cpu_s > 0
    assert report.peak_rss_bytes > 1_000_000


def test_two_ranks_find_each_other_by_the_catalog(site: Site, database_url: str) -> None:
    stage = job(site, 2)
    meeting = [{"name": "INTERLOOM_DATABASE_URL", "value": database_url}]

    report = launcher(site, rendezvous_env=meeting).run(stage, progress=NoProgress())

    assert ProbeResult.model_validate_json(report.result_json).metric("length") == 5
    assert len(pods_of(site, stage)) == 2


def test_a_stages_own_error_comes_back_as_its_class(site: Site) -> None:
    with pytest.raises(DataError, match="the probe refuses its data"):
        launcher(site).run(job(site, ending="data"), progress=NoProgress())


def nobody(site: Site) -> dict[str, Any]:
    template = site.profile_body()["pod"]
    template["spec"]["serviceAccountName"] = "nobody"
    return {"pod": template}


def no_image(site: Site) -> dict[str, Any]:
    template = site.profile_body()["pod"]
    template["spec"]["containers"][0]["image"] = "localhost/there-is-none:1"
    return {"pod": template}


def no_secret(site: Site) -> dict[str, Any]:
    template = site.profile_body()["pod"]
    key = {"secretKeyRef": {"name": "absent", "key": "password"}}
    template["spec"]["containers"][0]["env"].append({"name": "X", "valueFrom": key})
    return {"pod": template}


def misspelt(site: Site) -> dict[str, Any]:
    template = site.profile_body()["pod"]
    template["spec"]["volumes"][0] = {"name": "Bad_Name", "emptyDir": {}}
    return {"pod": template}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lambda _: {"pools": {"cpu": {"node_selector": {"pool": "gold"}}}},
            r"no node takes it: 0/1 nodes.*pool 'cpu' \(nodes with .*gold.*\): add such a node",
        ),
        (no_image, r"its image does not come: localhost/there-is-none:1: .*build and push"),
        (nobody, r'its pod is not made: .*serviceaccount "nobody" not found'),
        (no_secret, r'its container cannot start: secret "absent" not found'),
        (misspelt, r"the cluster refuses what it was sent: .*Bad_Name"),
        (lambda _: {"namespace": "nowhere-at-all"}, r"no namespace 'nowhere-at-all' on https"),
        (
            lambda _: {"stages": {"probe": "gold"}},
            r"goes to pool 'gold', which the cluster profile does not have; it has cpu",
        ),
    ],
)
def test_what_keeps_a_stage_from_starting_is_said_in_one_line(
    site: Site, changes: Callable[[Site], dict[str, Any]], message: str
) -> None:
    stage, told = job(site), Told()

    with pytest.raises(ConfigError, match=message):
        launcher(site, **changes(site)).run(stage, progress=told)

    assert not [one for one in jobs_of(site, stage) if "deletionTimestamp" not in one["metadata"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (misspelt, r"the cluster refuses what it was sent: .*Bad_Name"),
        (lambda _: {"namespace": "nowhere-at-all"}, r"no namespace 'nowhere-at-all' on https"),
        (lambda _: {"stages": {"probe": "gold"}}, "goes to pool 'gold', which the cluster"),
    ],
)
def test_what_the_api_server_refuses_is_found_before_a_run(
    site: Site, changes: Callable[[Site], dict[str, Any]], message: str
) -> None:
    launcher(site).check({"probe": 2})

    with pytest.raises(ConfigError, match=message):
        launcher(site, **changes(site)).check({"probe": 2})

    assert not [one for one in site.jobs() if "unborn" in one["metadata"]["name"]]


@pytest.fixture
def quota(site: Site) -> Iterator[None]:
    body = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"requests.cpu": "3"}},
    }
    kubectl("create", "-n", site.namespace, "-f", "-", body=json.dumps(body))

    def is_counted() -> bool:
        shown = kubectl("get", "quota", "small", "-n", site.namespace, "-o", "json")
        return "hard" in json.loads(shown).get("status", {})

    wait_for(is_counted)
    yield
    kubectl("delete", "quota", "small", "-n", site.namespace)


@pytest.mark.usefixtures("quota")
def test_a_quota_that_is_too_small_is_told_before_anything_is_made(site: Site) -> None:
    stage = job(site, 2)
    pools = {"cpu": {"resources": {"requests": {"cpu": "2", "memory": "64Mi"}}}}

    with pytest.raises(
        ConfigError, match=r"2 ranks needs requests\.cpu = 4, but quota 'small' leaves [0-9.]+ of 3"
    ):
        launcher(site, pools=pools).run(stage, progress=NoProgress())

    with pytest.raises(ConfigError, match=r"but quota 'small' leaves 3 of 3"):
        launcher(site, pools=pools).check({"probe": 2})
    assert jobs_of(site, stage) == []


def as_account(site: Site, token: str, server: str | None = None) -> Path:
    """A kubeconfig of a token, on this cluster or at another address."""
    shown = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    cluster = shown["clusters"][0]["cluster"]
    if server is not None:
        cluster["server"] = server
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": cluster}],
        "users": [{"name": "x", "user": {"token": token}}],
    }
    path = site.folder / f"kubeconfig-{uuid4().hex[:8]}"
    path.write_text(json.dumps(config))
    return path


def account_token(site: Site, account: str) -> str:
    """A fresh token of a service account."""
    path = f"/api/v1/namespaces/{{namespace}}/serviceaccounts/{account}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token: str = site.api.create(path, request)["status"]["token"]
    return token


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda site: as_account(site, "expired"), ConfigError, "have they expired"),
        (
            lambda site: as_account(site, account_token(site, "default")),
            ConfigError,
            r"cannot list resource .jobs.*infra/base/accounts\.yaml",
        ),
        (
            lambda site: as_account(site, "x", f"https://{HOST}:1"),
            TransientError,
            r"no API server answers at https.*is the cluster up, and does KUBECONFIG name it",
        ),
        (lambda _: Path("/nowhere/config"), ConfigError, "no cluster is known.*set KUBECONFIG"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_told_in_one_line(
    site: Site,
    make: Callable[[Site], Path],
    error: type[InterloomError],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(make(site)))

    with pytest.raises(error, match=message):
        launcher(site).run(job(site), progress=NoProgress())
    with pytest.raises(error, match=message.replace("list", "create")):
        launcher(site).check({"probe": 1})


def flow_process(site: Site, stage: StageJob) -> subprocess.Popen[bytes]:
    """Another process that runs a stage, to be killed."""
    program = (
        "from pathlib import Path\n"
        "from interloom.adapters.cluster.opening import open_cluster_launcher\n"
        "from interloom.ports.launcher import StageJob\n"
        "from interloom.ports.progress import NoProgress\n"
        f"launcher = open_cluster_launcher('jobs', Path({str(site.profile())!r}), {PROGRAM!r})\n"
        f"job = StageJob('probe', {stage.request_json!r}, Path({str(stage.folder)!r}))\n"
        "launcher.run(job, progress=NoProgress())\n"
    )
    return subprocess.Popen([sys.executable, "-c", program])


def test_a_flow_that_comes_back_after_a_kill_goes_on_with_its_job(site: Site) -> None:
    stage = job(site, num_steps=12, step_s=0.5)
    first = flow_process(site, stage)
    wait_for(lambda: steps(stage) >= 2)
    before = [one["metadata"]["uid"] for one in jobs_of(site, stage)]

    first.send_signal(signal.SIGKILL)
    first.wait()
    told = Told()
    report = launcher(site).run(stage, progress=told)

    assert [one["metadata"]["uid"] for one in jobs_of(site, stage)] == before
    assert told.notes[0] == "goes on with attempt 1"
    assert ProbeResult.model_validate_json(report.result_json).metric("length") == 5
    assert steps(stage) == 12


def test_a_stage_that_is_cancelled_leaves_no_job(site: Site) -> None:
    stage, started = job(site, num_steps=600, step_s=0.2), launcher(site)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            started.run(stage, progress=NoProgress())
        except KeyboardInterrupt as error:
            ended.append(error)

    thread = in_background(run)
    wait_for(lambda: steps(stage) >= 1)
    started.stop()
    thread.join(60)

    assert len(ended) == 1
    wait_for(lambda: not jobs_of(site, stage) and not pods_of(site, stage))


def test_a_flow_that_moves_leaves_its_job_and_the_reconciler_ends_it(site: Site) -> None:
    stage, started = job(site, num_steps=600, step_s=0.2), launcher(site)

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            started.run(stage, progress=NoProgress())

    thread = in_background(run)
    wait_for(lambda: steps(stage) >= 1)
    started.stop(leaves_jobs=True)
    thread.join(60)
    assert len(jobs_of(site, stage)) == 1

    other = launcher(site)
    assert other.reconcile({stage.key}, grace_s=0) == 0
    assert len(jobs_of(site, stage)) == 1
    assert other.reconcile(set(), grace_s=3600) == 0
    assert other.reconcile(set(), grace_s=0) == 1
    wait_for(lambda: not jobs_of(site, stage) and not pods_of(site, stage))
    assert other.reconcile(set(), grace_s=0) == 0


def run_through(
    site: Site, stage: StageJob, disturb: Callable[[], None], **changes: Any
) -> tuple[str, list[str]]:
    """Run a stage, disturb it after its second step; the result and what was told."""
    told, results = Told(), list[str]()
    started = launcher(site, **changes)
    thread = in_background(lambda: results.append(started.run(stage, progress=told).result_json))
    wait_for(lambda: steps(stage) >= 2)
    disturb()
    thread.join(240)
    assert results, told.notes
    return results[0], told.notes


def test_a_killed_data_pod_comes_back_and_goes_on(site: Site) -> None:
    stage = job(site, num_steps=8, step_s=0.5)

    def kill() -> None:
        name = pods_of(site, stage)[0]["metadata"]["name"]
        kubectl("delete", "pod", name, "-n", site.namespace, "--grace-period=0", "--force")

    result, _ = run_through(site, stage, kill)

    assert ProbeResult.model_validate_json(result).metric("length") == 5
    assert steps(stage) >= 8
    assert not [one for one in pods_of(site, stage) if one["status"]["phase"] == "Running"]


def test_a_killed_rank_takes_the_others_along_and_all_start_again(
    site: Site, database_url: str
) -> None:
    stage = job(site, 2, num_steps=30, step_s=0.5)
    meeting = [{"name": "INTERLOOM_DATABASE_URL", "value": database_url}]

    def kill() -> None:
        ranks = {
            one["metadata"]["labels"]["interloom.dev/rank"]: one for one in pods_of(site, stage)
        }
        name = ranks["1"]["metadata"]["name"]
        kubectl("delete", "pod", name, "-n", site.namespace, "--wait=false")

    result, notes = run_through(site, stage, kill, rendezvous_env=meeting, grace_s=3)

    assert ProbeResult.model_validate_json(result).metric("length") == 5
    assert any(note.startswith("starts again: ") for note in notes)
    attempts = {one["metadata"]["labels"]["interloom.dev/attempt"] for one in jobs_of(site, stage)}
    assert attempts == {"2"}


def sharded(site: Site, **request: Any) -> StageJob:
    return dataclasses.replace(job(site, num_shards=12, **request), can_be_parted=True)


def shards(stage: StageJob) -> dict[str, str]:
    return {path.name: path.read_text() for path in (stage.folder / "shards").glob("*")}


def pods_of_part(site: Site, stage: StageJob, part: str) -> set[str]:
    return {
        pod["metadata"]["name"]
        for pod in pods_of(site, stage)
        if pod["metadata"]["labels"].get("interloom.dev/part") == part
    }


def test_shards_are_made_side_by_side_and_a_killed_data_pod_makes_its_own_again(
    site: Site,
) -> None:
    stage, told, results = sharded(site, step_s=1), Told(), list[JobReport]()
    started = launcher(site, fan_out={"probe": {"parts": 4, "at_once": 2}})
    thread = in_background(lambda: results.append(started.run(stage, progress=told)))
    wait_for(lambda: any(shards(stage).values()))
    killed_part = next(filter(None, shards(stage).values())).removeprefix("part ")
    (killed,) = pods_of_part(site, stage, killed_part)
    kubectl("delete", "pod", killed, "-n", site.namespace, "--grace-period=0", "--force")
    thread.join(240)

    assert results, told.notes
    labels = [one["metadata"]["labels"] for one in jobs_of(site, stage)]
    parts = {one.get("interloom.dev/part", "") for one in labels}
    assert parts == {"", "0-of-4", "1-of-4", "2-of-4", "3-of-4"}
    assert pods_of_part(site, stage, killed_part) - {killed}
    made = shards(stage)
    assert made == {f"{at:05d}": f"part {at % 4}-of-4" for at in range(12)}
    assert not [one for one in pods_of(site, stage) if one["status"]["phase"] == "Running"]


def test_a_part_that_its_stage_refuses_fails_the_stage_and_leaves_no_job(site: Site) -> None:
    stage = sharded(site, ending="data", step_s=0.1)

    with pytest.raises(DataError, match="the probe refuses its data"):
        launcher(site, fan_out={"probe": {"parts": 3, "at_once": 2}}).run(
            stage, progress=NoProgress()
        )

    wait_for(lambda: not jobs_of(site, stage))


def test_stages_publish_into_s3_with_credentials_that_nobody_tells(
    site: Site, tmp_path: Path
) -> None:
    names = {"ACCESS": ("access-key", ACCESS_KEY), "SECRET": ("secret-key", SECRET_KEY)}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "interloom-s3"}}
    data = {"stringData": dict(names.values())}
    kubectl("apply", "-n", site.namespace, "-f", "-", body=json.dumps(secret | data))
    stage = sharded(site)
    with s3_server(tmp_path / "s3", host=HOST) as server:
        store = {
            "INTERLOOM_STORE_ROOT": f"s3://{BUCKET}/cluster",
            "INTERLOOM_S3_ENDPOINT": server.endpoint,
        }
        template = pod_template(site.folder, store)
        template["spec"]["containers"][0]["env"] += [
            {
                "name": f"INTERLOOM_S3_{half}_KEY",
                "valueFrom": {"secretKeyRef": {"name": "interloom-s3", "key": key}},
            }
            for half, (key, _) in names.items()
        ]
        parts = {"probe": {"parts": 2, "at_once": 2}}
        report = launcher(site, pod=template, fan_out=parts).run(stage, progress=NoProgress())

        made = ProbeResult.model_validate_json(report.result_json).corpus
        client = server.client()
        held = {
            one.object_name or "": client.get_object(BUCKET, one.object_name or "").data
            for one in client.list_objects(BUCKET, recursive=True)
        }

    assert f"cluster/manifests/{made.id}.json" in held
    told = {f"s3 {name}": body for name, body in held.items()}
    told |= {str(path): path.read_bytes() for path in site.folder.rglob("*") if path.is_file()}
    told["jobs"] = json.dumps(jobs_of(site, stage)).encode()
    told["pods"] = json.dumps(pods_of(site, stage)).encode()
    for pod in pods_of(site, stage):
        name = pod["metadata"]["name"]
        told[f"log of {name}"] = kubectl("logs", name, "-n", site.namespace).encode()
    assert len(told) > 15
    secrets = (ACCESS_KEY.encode(), SECRET_KEY.encode())
    assert [where for where, body in told.items() if any(one in body for one in secrets)] == []


def api_server() -> psutil.Process:
    """The API server, if it is a process of this machine."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"].startswith("kube-apiserver"):
            return process
    pytest.skip("the API server does not run on this machine")


def test_an_api_server_that_is_away_for_30_s_does_no_harm(site: Site) -> None:
    stage = job(site, num_steps=20, step_s=0.5)
    server = api_server()

    def freeze() -> None:
        server.suspend()
        try:
            time.sleep(30)
        finally:
            server.resume()

    result, notes = run_through(site, stage, freeze)

    assert ProbeResult.model_validate_json(result).metric("length") == 5
    assert any("the API server is silent" in note for note in notes)
    assert steps(stage) == 20
