"""A real cluster, named by KUBECONFIG, whose pods run this checkout.

Pods get this machine's ``/usr``, interpreter, virtual environment and checkout by host path, so the
cluster's node must be this machine. INTERLOOM_TEST_IMAGE names an image with an empty root.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from interloom.adapters.cluster.api import JOBS, PODS, ClusterApi
from interloom.config.environment import environment

ROOT = Path(__file__).parents[2]
NO_CLUSTER = "KUBECONFIG" not in environment()
IMAGE = environment().get("INTERLOOM_TEST_IMAGE", "localhost/host:1")
HOST = environment().get("INTERLOOM_TEST_HOST_ADDRESS", "10.244.0.1")  # this machine, from a pod

PORT = 54329
PASSWORD = "hidden-catalog-password"  # noqa: S105 - of a server of the test

Json = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a cluster."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.skipif(NO_CLUSTER, reason="KUBECONFIG names no cluster"))


def kubectl(*words: str, body: str | None = None, check: bool = True) -> str:
    """What kubectl prints."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed (Debian: kubernetes-client)")
    command = [program, "--request-timeout=30s", *words]
    done = subprocess.run(command, input=body, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout if done.returncode == 0 else done.stderr


@dataclass(frozen=True, slots=True)
class Site:
    """A namespace, and a folder of this machine that its pods have at the same path.

    Attributes:
        namespace: Its name.
        folder: Store, workspaces, profile.
        api: The cluster, in that namespace.
    """

    namespace: str
    folder: Path
    api: ClusterApi

    def profile(self, **changes: Any) -> Path:
        """Write a cluster profile; ``changes`` replace its fields."""
        path = self.folder / f"profile-{uuid4().hex[:8]}.json"
        path.write_text(json.dumps(self.profile_body() | changes))
        return path

    def profile_body(self) -> Json:
        """A profile whose pods run this checkout."""
        return {
            "namespace": self.namespace,
            "default_pool": "cpu",
            "pools": {"cpu": {"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}},
            "python": [sys.executable],
            "pod": pod_template(self.folder, {"INTERLOOM_STORE_ROOT": str(self.folder / "store")}),
            "refused_s": 8,
            "unschedulable_s": 8,
            "grace_s": 20,
        }

    def pods(self) -> list[Json]:
        """All pods."""
        return self.api.items(PODS)

    def jobs(self) -> list[Json]:
        """All jobs."""
        return self.api.items(JOBS)


def pod_template(folder: Path, env: Mapping[str, str]) -> Json:
    """A pod that has this machine's interpreter and checkout."""
    mounts = {
        "usr": Path("/usr"),
        "python": Path(sys.base_prefix),
        "venv": Path(sys.prefix),
        "code": ROOT,
        "site": folder,
    }
    paths = {name: path for name, path in mounts.items() if path != Path("/usr") or name == "usr"}
    container = {
        "name": "stage",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": name, "value": value} for name, value in env.items()]
        + [{"name": "INTERLOOM_HOME", "value": str(folder / "home")}],
        "volumeMounts": [
            {"name": name, "mountPath": str(path), "readOnly": name != "site"}
            for name, path in paths.items()
        ],
    }
    volumes: list[Json] = [
        {"name": name, "hostPath": {"path": str(path)}} for name, path in paths.items()
    ]
    return {
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": volumes,
        }
    }


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A namespace of its own, removed in the end."""
    namespace = f"interloom-test-{uuid4().hex[:6]}"
    kubectl("create", "namespace", namespace)
    folder = Path(tempfile.mkdtemp(prefix="interloom-site-"))
    folder.chmod(0o777)
    try:
        yield Site(namespace, folder, ClusterApi(namespace))
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> Path:
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not packaged:
        pytest.skip("the PostgreSQL programs are not installed (Debian: postgresql)")
    return packaged[-1]


def _as_postgres(folder: Path) -> str | None:
    """Whom the server runs as, and give it its folder: it refuses to run as root."""
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    folder.chmod(0o755)
    return user


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """A PostgreSQL server that pods can reach, with a migrated catalog."""
    from interloom.adapters.sql_catalog import migrate

    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    folder = Path(tempfile.mkdtemp(prefix="interloom-pg-"))
    user = _as_postgres(folder)
    data, password = folder / "data", folder / "password"
    password.write_text(f"{PASSWORD}\n")

    def run(*command: str) -> None:
        subprocess.run(
            command, check=True, user=user, capture_output=True, timeout=60, cwd=folder, env={}
        )

    words = ("--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "--encoding=UTF8")
    run(str(initdb), "-D", str(data), "-U", "interloom", *words, "--locale=C")
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.0.0.0/8 scram-sha-256\n")
    options = f"-c listen_addresses={HOST} -c port={PORT} -c fsync=off"
    options += f" -c unix_socket_directories={folder}"
    run(str(pg_ctl), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    url = f"postgresql+psycopg://interloom:{PASSWORD}@{HOST}:{PORT}/postgres"
    try:
        migrate(url)
        yield url
    finally:
        run(str(pg_ctl), "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
