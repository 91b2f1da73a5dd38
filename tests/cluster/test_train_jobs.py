"""The TrainJob launcher against a real API server.

No Kubeflow controller runs here: its resource is installed from our own strict schema, and what the
controller would write into the status is written by the test.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from interloom.adapters.cluster.api import PODS, TRAIN_JOBS, NotThereError
from interloom.adapters.cluster.launcher import ClusterLauncher
from interloom.adapters.cluster.opening import open_cluster_launcher
from interloom.core.errors import ConfigError, DataError, MissingError
from interloom.ports.launcher import JobReport, StageJob
from interloom.ports.progress import NoProgress
from interloom.testing.local_cluster import IMAGE, Site, kubectl

SCHEMA = Path(__file__).parents[1] / "unit/schemas/trainjob.json"
CRD = "trainjobs.trainer.kubeflow.org"
Json = dict[str, Any]


def structural(schema: Any) -> Any:
    """A JSON schema in the words of a CustomResourceDefinition."""
    if isinstance(schema, list):
        return [structural(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: structural(v) for k, v in schema.items() if k != "$schema"}
    if kept.get("additionalProperties") is False:
        del kept["additionalProperties"]
    if "const" in kept:
        kept |= {"enum": [kept.pop("const")], "type": "string"}
    if "enum" in kept:
        kept["type"] = "string"
    return kept


def definition() -> Json:
    schema = structural(json.loads(SCHEMA.read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"]["status"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    names = {"kind": "TrainJob", "plural": "trainjobs", "singular": "trainjob"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": CRD,
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "trainer.kubeflow.org",
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }


@pytest.fixture(scope="module")
def train_jobs(site: Site) -> Iterator[None]:
    kubectl("apply", "-f", "-", body=json.dumps(definition()))

    def is_served() -> bool:
        try:
            site.api.items(TRAIN_JOBS)
        except NotThereError:
            return False
        return True

    wait_for(is_served)
    yield
    kubectl("delete", "crd", CRD, "--wait=false")


def wait_for(condition: Callable[[], object], limit_s: float = 60) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not so within {limit_s} s"
        time.sleep(0.2)


def stage(site: Site) -> StageJob:
    return StageJob("pretrain", "{}", site.folder / "work" / uuid4().hex, num_ranks=2)


def launcher(site: Site, queue: str | None = None) -> ClusterLauncher:
    pool = {"resources": {"requests": {"cpu": "100m"}}, "queue": queue}
    profile = site.profile(pools={"cpu": pool})
    return open_cluster_launcher("trainjob", profile, ("-m", "interloom.stages"))


def found(site: Site, job: StageJob) -> list[Json]:
    return site.api.items(TRAIN_JOBS, labelSelector=f"interloom.dev/stage-key={job.key[:40]}")


def the_one(site: Site, job: StageJob) -> Json:
    (only,) = found(site, job)
    return only


def play(site: Site, job: StageJob, condition: str) -> None:
    """Write the status that the controller would write."""
    name = the_one(site, job)["metadata"]["name"]
    entry = {
        "type": condition,
        "status": "True",
        "reason": "PlayedByTheTest",
        "message": "",
        "lastTransitionTime": "2026-11-20T00:00:00Z",
    }
    site.api.merge(TRAIN_JOBS, f"{name}/status", {"status": {"conditions": [entry]}})


class Following:
    """A launcher that follows a stage in a thread."""

    def __init__(self, started: ClusterLauncher, job: StageJob) -> None:
        self.reports: list[JobReport] = []
        self.errors: list[BaseException] = []
        self.launcher = started
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def _run(self, job: StageJob) -> None:
        try:
            self.reports.append(self.launcher.run(job, progress=NoProgress()))
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.errors.append(error)

    def makes(self, site: Site, job: StageJob) -> None:
        wait_for(lambda: self.errors or found(site, job))
        assert self.errors == []

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_a_cluster_without_train_jobs_is_told_before_anything_is_held(site: Site) -> None:
    with pytest.raises(MissingError, match=r"no TrainJob API.*INTERLOOM_LAUNCHER=jobs"):
        launcher(site).run(stage(site), progress=NoProgress())


@pytest.mark.usefixtures("train_jobs")
def test_a_train_job_is_applied_followed_and_done(site: Site) -> None:
    job = stage(site)
    following = Following(launcher(site, queue="train"), job)
    following.makes(site, job)

    made = the_one(site, job)
    assert made["metadata"]["name"] == f"pretrain-{job.key[:10]}-a1"
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "train"
    assert made["spec"]["suspend"] is True
    assert made["spec"]["trainer"]["numNodes"] == 2
    assert made["spec"]["trainer"]["image"] == IMAGE
    assert made["metadata"]["managedFields"][0]["manager"] == "interloom"
    assert made["metadata"]["managedFields"][0]["operation"] == "Apply"

    (job.folder / "result.json").write_text('{"made": "by the test"}')
    play(site, job, "Complete")
    following.end()

    assert following.errors == []
    assert following.reports[0].result_json == '{"made": "by the test"}'


@pytest.mark.usefixtures("train_jobs")
def test_a_flow_that_comes_back_finds_its_train_job_and_changes_nothing(site: Site) -> None:
    job = stage(site)
    first = Following(launcher(site), job)
    first.makes(site, job)
    before = the_one(site, job)["metadata"]
    first.launcher.stop(leaves_jobs=True)
    first.end()

    second = Following(launcher(site), job)
    time.sleep(2)
    after = the_one(site, job)["metadata"]
    assert (after["uid"], after["resourceVersion"]) == (before["uid"], before["resourceVersion"])

    second.launcher.stop()
    second.end()
    wait_for(lambda: not found(site, job))


@pytest.mark.usefixtures("train_jobs")
def test_what_the_stage_ended_by_is_raised(site: Site) -> None:
    job = stage(site)
    following = Following(launcher(site), job)
    following.makes(site, job)
    (job.folder / "error.json").write_text('{"class": "DataError", "message": "row 7 is bad"}')
    for rank in range(2):
        make_pod(site, job, rank, image=IMAGE, code=65)
    wait_for(lambda: sum(one["status"].get("phase") == "Failed" for one in site.pods()) >= 2)
    play(site, job, "Failed")
    following.end()

    assert isinstance(following.errors[0], DataError)
    assert "row 7 is bad" in str(following.errors[0])
    wait_for(lambda: not found(site, job))


@pytest.mark.usefixtures("train_jobs")
def test_a_pod_of_a_train_job_that_finds_no_image_is_told(site: Site) -> None:
    job = stage(site)
    following = Following(launcher(site), job)
    following.makes(site, job)
    make_pod(site, job, 0, image="localhost/there-is-none:1", code=0)
    following.end()

    assert isinstance(following.errors[0], ConfigError)
    assert "its image does not come: localhost/there-is-none:1" in str(following.errors[0])
    wait_for(lambda: not found(site, job))


def make_pod(site: Site, job: StageJob, rank: int, *, image: str, code: int) -> None:
    """A pod that the controller would make."""
    name = f"pretrain-{job.key[:10]}-a1"
    body = site.profile_body()["pod"]
    container = body["spec"]["containers"][0]
    container["image"] = image
    container["command"] = ["/bin/sh", "-c", f"exit {code}"]
    body["spec"]["restartPolicy"] = "Never"
    labels = {"jobset.sigs.k8s.io/jobset-name": name}
    metadata = {"name": f"{name}-node-{rank}", "labels": labels}
    site.api.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata} | body)


@pytest.mark.usefixtures("train_jobs")
def test_an_orphan_is_suspended_and_goes_on_when_its_flow_comes_back(site: Site) -> None:
    job = stage(site)
    first = Following(launcher(site), job)
    first.makes(site, job)
    first.launcher.stop(leaves_jobs=True)
    first.end()

    assert launcher(site).reconcile({job.key}, grace_s=0) == 0
    assert launcher(site).reconcile(set(), grace_s=0) >= 1
    assert the_one(site, job)["spec"]["suspend"] is True
    assert launcher(site).reconcile(set(), grace_s=0) == 0

    second = Following(launcher(site), job)
    wait_for(lambda: the_one(site, job)["spec"]["suspend"] is False)
    second.launcher.stop()
    second.end()
    wait_for(lambda: not found(site, job))


@pytest.mark.usefixtures("train_jobs")
def test_an_orphan_in_a_queue_is_deleted(site: Site) -> None:
    job = stage(site)
    first = Following(launcher(site, queue="train"), job)
    first.makes(site, job)
    first.launcher.stop(leaves_jobs=True)
    first.end()

    assert launcher(site).reconcile(set(), grace_s=0) >= 1
    wait_for(lambda: not found(site, job))
