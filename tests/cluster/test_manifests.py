"""The manifests against a real API server, named by KUBECONFIG."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interloom.config.environment import environment

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("KUBECONFIG" not in environment(), reason="KUBECONFIG names no cluster"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


def kubectl(*words: str, body: str | None = None) -> str:
    """What kubectl prints."""
    command = [shutil.which("kubectl") or "kubectl", "--request-timeout=30s", *words]
    done = subprocess.run(command, input=body, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def accounts() -> Iterator[None]:
    """Namespace, accounts, roles and priorities as the base has them."""
    kubectl("apply", "-f", str(ROOT / "infra/base/namespace.yaml"))
    kubectl("apply", "-n", "interloom", "-f", str(ROOT / "infra/base/accounts.yaml"))
    kubectl("apply", "-f", str(ROOT / "infra/base/priorities.yaml"))
    yield
    kubectl("delete", "namespace", "interloom", "--wait=false")


def may(account: str, verb: str, resource: str, *, group: str = "", part: str = "") -> bool:
    """Whether an account of ours is allowed to, in our namespace."""
    review: dict[str, Any] = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:interloom:{account}",
            "resourceAttributes": {
                "namespace": "interloom",
                "verb": verb,
                "resource": resource,
                "subresource": part,
                "group": group,
            },
        },
    }
    answer = json.loads(kubectl("create", "-f", "-", "-o", "json", body=json.dumps(review)))
    return bool(answer["status"]["allowed"])


@pytest.mark.usefixtures("accounts")
def test_flow_runs_may_launch_and_follow_jobs_and_nothing_else() -> None:
    runner = "interloom-flow-runner"

    for verb in ("get", "list", "watch", "create", "patch", "delete"):
        assert may(runner, verb, "trainjobs", group="trainer.kubeflow.org")
        assert may(runner, verb, "jobs", group="batch")
    assert may(runner, "list", "pods")
    assert may(runner, "get", "pods", part="log")
    assert may(runner, "list", "resourcequotas")
    assert may(runner, "list", "workloads", group="kueue.x-k8s.io")
    assert not may(runner, "create", "resourcequotas")
    assert not may(runner, "create", "pods")
    assert not may(runner, "delete", "pods")
    assert not may(runner, "create", "pods", part="exec")
    assert not may(runner, "get", "secrets")


@pytest.mark.usefixtures("accounts")
def test_only_flow_runs_and_the_worker_may_do_anything() -> None:
    assert may("interloom-worker", "create", "jobs", group="batch")
    assert not may("interloom-worker", "get", "secrets")
    assert not may("interloom-worker", "create", "trainjobs", group="trainer.kubeflow.org")
    for account in ("interloom-platform", "interloom-stage"):
        assert not may(account, "get", "pods")
        assert not may(account, "get", "secrets")


@pytest.mark.usefixtures("accounts")
def test_the_api_server_takes_every_resource_that_it_knows(tmp_path: Path) -> None:
    infra = tmp_path / "infra"
    shutil.copytree(ROOT / "infra", infra)
    subprocess.run([infra / "make-secrets.sh"], check=True, capture_output=True)
    manifests = kubectl("kustomize", str(infra / "overlays/local"))
    known = kubectl("api-versions").split()
    resources = [
        part
        for part in manifests.split("\n---\n")
        if any(f"apiVersion: {version}\n" in part for version in known)
    ]

    output = kubectl("apply", "--dry-run=server", "-f", "-", body="\n---\n".join(resources))

    assert len(output.splitlines()) == len(resources)
    assert len(resources) >= 30
