"""What the images hold, run as pods run it: without rights, on a root that cannot be written.

INTERLOOM_TEST_ROOTS names a folder with the roots ``flows``, ``train`` and ``dashboard``, as
``infra/images/fill.sh`` fills them; the node must see it.
"""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from interloom.adapters.cluster.api import PODS
from interloom.adapters.cluster.opening import open_cluster_launcher
from interloom.config.environment import environment
from interloom.ports.launcher import StageJob
from interloom.ports.progress import NoProgress
from interloom.testing.local_cluster import Site, in_image_root, kubectl
from interloom.testing.probe import PROGRAM, ProbeRequest, ProbeResult

PYTHON = "/opt/interloom/bin/python"
Json = dict[str, Any]
HAS = {
    "flows": "prefect, prefect_kubernetes, great_expectations, torch, espeakng_loader, psycopg",
    "train": "deepspeed, torch, minio, psycopg",
    "dashboard": "streamlit, prefect, psycopg",
}
HAS_NOT = {
    "flows": ("streamlit", "deepspeed"),
    "train": ("prefect", "great_expectations", "streamlit"),
    "dashboard": ("great_expectations", "deepspeed"),
}


@pytest.fixture(scope="module")
def roots() -> Path:
    """Where the filled roots are."""
    named = environment().get("INTERLOOM_TEST_ROOTS")
    if named is None:
        pytest.skip("INTERLOOM_TEST_ROOTS names no folder of image roots (infra/images/fill.sh)")
    return Path(named)


def pod_of(root: Path, site: Site, command: list[str]) -> Json:
    """A pod that has an image's root, as the cluster profile's pods are allowed to use it."""
    site.folder.joinpath("scratch").mkdir(mode=0o777, exist_ok=True)
    site.folder.joinpath("scratch").chmod(0o777)
    env = {
        "HOME": "/tmp",  # noqa: S108 - of the pod
        "INTERLOOM_HOME": f"{site.folder}/scratch",
        "INTERLOOM_STORE_ROOT": f"{site.folder}/scratch/store",
    }
    container = {
        "name": "stage",
        "command": command,
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "site", "mountPath": str(site.folder)},
        ],
    }
    volumes = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "site", "hostPath": {"path": str(site.folder)}},
    ]
    spec: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001},
        "containers": [container],
        "volumes": volumes,
    }
    in_image_root(spec, root)
    return {"spec": spec}


def says(site: Site, root: Path, *command: str) -> str:
    """What a pod of this root prints; it must end well."""
    name = f"image-{uuid4().hex[:8]}"
    body = pod_of(root, site, list(command))
    head = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
    site.api.create(PODS, head | body)
    deadline_s = time.monotonic() + 300
    while (phase := site.api.get(PODS, name)["status"].get("phase")) in {"Pending", "Running"}:
        assert time.monotonic() < deadline_s, site.api.get(PODS, name)["status"]
        time.sleep(1)
    said = kubectl("logs", name, "-n", site.namespace, check=False)
    assert phase == "Succeeded", said
    return said


@pytest.mark.parametrize("image", ["flows", "train", "dashboard"])
def test_an_image_has_what_its_pods_import_and_no_more(site: Site, roots: Path, image: str) -> None:
    absent = f"import importlib.util as u; print([u.find_spec(n) for n in {HAS_NOT[image]!r}])"

    said = says(site, roots / image, PYTHON, "-c", f"import interloom, {HAS[image]}; {absent}")

    assert said.splitlines()[-1] == str([None] * len(HAS_NOT[image]))


@pytest.mark.parametrize(
    ("image", "lacks"),
    [
        ("flows", {"deepspeed"}),
        ("train", {"prefect", "great-expectations", "espeakng-loader"}),
        ("dashboard", {"deepspeed", "great-expectations", "espeakng-loader"}),
    ],
)
def test_the_doctor_misses_in_an_image_only_what_others_have(
    site: Site, roots: Path, image: str, lacks: set[str]
) -> None:
    said = says(site, roots / image, "/bin/sh", "-c", "interloom doctor || true")

    missing = [line.split("MISSING", 1)[1] for line in said.splitlines() if "MISSING" in line]
    assert {line.strip(" |\u2502").split()[0] for line in missing} == lacks, said


@pytest.mark.parametrize("image", ["flows", "train"])
def test_a_stage_runs_in_an_image(site: Site, roots: Path, image: str) -> None:
    pod = pod_of(roots / image, site, [])
    work = site.folder / "scratch/work"
    work.mkdir(exist_ok=True)
    profile = site.profile(pod=pod, python=[PYTHON])
    stage = StageJob("probe", ProbeRequest(text="hello").model_dump_json(), work / uuid4().hex)
    stage.folder.mkdir()
    stage.folder.chmod(0o777)

    report = open_cluster_launcher("jobs", profile, PROGRAM).run(stage, progress=NoProgress())

    assert ProbeResult.model_validate_json(report.result_json).metric("length") == 5
