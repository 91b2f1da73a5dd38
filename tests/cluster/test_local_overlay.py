"""The ``local`` overlay as it runs on a cluster without DNS, volumes, registry and load balancer.

Replaced are: images by their roots (INTERLOOM_TEST_ROOTS names their folder), the volume by a
folder of this machine, PostgreSQL by a server of this machine, the name of Prefect's service by its
pod's address. All else is what ``kubectl apply -k infra/overlays/local`` sends; S3 is not started.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from interloom.adapters.cluster.api import PODS, ClusterApi
from interloom.adapters.sql_catalog import SqlCatalog
from interloom.config.environment import environment
from interloom.testing.local_cluster import HOST, ROOT, in_image_root, kubectl
from interloom.testing.postgres_server import postgres_server

NAMESPACE = "interloom"
PREFECT = "interloom-prefect"
COMMAND = [sys.executable, "-c", "from interloom_flows.cli import main; main()"]
Json = dict[str, Any]


def wait_for(condition: Callable[[], object], limit_s: float, told: Callable[[], str]) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, told()
        time.sleep(1)


@dataclass(frozen=True)
class Overlay:
    """What was rendered, and where it runs."""

    resources: tuple[Json, ...]
    roots: Path
    api: ClusterApi
    database_url: str
    login: str

    def send(self, *names: str, aliases: Mapping[str, str] | None = None) -> None:
        """Apply what has pods, on the roots of their images."""
        with_pods = [one for one in self.resources if one["kind"] in {"Deployment", "Job"}]
        chosen = [one for one in with_pods if one["metadata"]["name"] in names]
        for one in chosen:
            self.adapt(one["spec"]["template"]["spec"], aliases or {})
        kubectl("apply", "-f", "-", body=yaml.safe_dump_all(chosen))

    def adapt(self, spec: Json, aliases: Mapping[str, str]) -> None:
        """Let a pod run here."""
        (container,) = spec["containers"]
        image = container["image"].removeprefix("interloom/").partition(":")[0]
        if image == "dashboard":
            container["command"] = ["sh", "/opt/interloom/dashboard.sh"]  # as its Dockerfile says
        in_image_root(spec, self.roots / image)
        spec["hostAliases"] = [{"ip": ip, "hostnames": [name]} for name, ip in aliases.items()]

    def pod(self, name: str) -> Json:
        """The newest pod of a part, or of flow runs, whose names Prefect gives."""
        label = "interloom.dev/role" if name == "flow-run" else "app.kubernetes.io/name"
        found = self.api.items(PODS, labelSelector=f"{label}={name}")
        return max(found, key=lambda one: one["metadata"]["creationTimestamp"], default={})

    def wait_until_ready(self, name: str) -> str:
        """Wait for a part's pod; gives its address."""

        def is_ready() -> bool:
            conditions = self.pod(name).get("status", {}).get("conditions", ())
            return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

        wait_for(is_ready, 300, lambda: self.words_of(name))
        address: str = self.pod(name)["status"]["podIP"]
        return address

    def words_of(self, name: str) -> str:
        """How a part stands, for a test that fails."""
        pod = self.pod(name)
        said = kubectl("logs", "-n", NAMESPACE, pod["metadata"]["name"], check=False) if pod else ""
        return f"{json.dumps(pod.get('status'))}\n{said[-3000:]}"


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the claim of the store is given, and the node's labels."""
    folder = tmp_path_factory.mktemp("volume")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o777)
    spec: Json = {
        "capacity": {"storage": "5Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(folder)},
        "claimRef": {"namespace": NAMESPACE, "name": "interloom-store"},
    }
    name = f"{NAMESPACE}-{folder.parent.name}"
    body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}}
    kubectl("create", "-f", "-", body=json.dumps({**body, "spec": spec}))
    labels = ("interloom.dev/pool=cpu", "interloom.dev/capacity=on-demand")
    kubectl("label", "node", "--all", "--overwrite", *labels)
    yield folder
    kubectl("delete", "persistentvolume", name, "--wait=false")
    kubectl("label", "node", "--all", *(f"{one.partition('=')[0]}-" for one in labels))


@pytest.fixture(scope="module")
def overlay(volume: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overlay]:
    """Everything without pods is applied; the databases are there and empty."""
    roots = environment().get("INTERLOOM_TEST_ROOTS")
    if roots is None:
        pytest.skip("INTERLOOM_TEST_ROOTS names no folder of image roots (infra/images/fill.sh)")
    infra = tmp_path_factory.mktemp("overlay") / "infra"
    shutil.copytree(ROOT / "infra", infra)
    subprocess.run([infra / "make-secrets.sh"], check=True, capture_output=True)
    with postgres_server(address=HOST) as server:
        catalog, prefect = server.new_database("catalog"), server.new_database("prefect")
        (infra / "secrets/database.env").write_text(
            f"password=unused\ncatalog-url={catalog}\n"
            f"prefect-url={prefect.replace('+psycopg', '+asyncpg')}\n"
        )
        rendered = kubectl("kustomize", str(infra / "overlays/local"))
        resources = tuple(yaml.safe_load_all(rendered))
        login = (infra / "secrets/prefect.env").read_text().strip().partition("=")[2]
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
        wait_for(lambda: "NotFound" in kubectl("get", "ns", NAMESPACE, check=False), 120, str)
        podless = [one for one in resources if "template" not in one.get("spec", {})]
        known = kubectl("api-versions").split()
        body = [one for one in podless if one["apiVersion"] in known]
        kubectl("apply", "-f", "-", body=yaml.safe_dump_all(body))
        try:
            yield Overlay(resources, Path(roots), ClusterApi(NAMESPACE), catalog, login)
        finally:
            kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def prefect_address(overlay: Overlay) -> str:
    """Migrations and Prefect's server, as soon as it answers."""
    overlay.send("interloom-migrate-0.1.0", PREFECT)
    return overlay.wait_until_ready(PREFECT)


def test_the_migration_job_makes_the_catalog(overlay: Overlay, prefect_address: str) -> None:
    def phase() -> object:
        return overlay.pod("interloom-migrate").get("status", {}).get("phase")

    told = overlay.words_of
    wait_for(lambda: phase() == "Succeeded", 120, lambda: told("interloom-migrate"))

    with closing(SqlCatalog.connect(overlay.database_url)) as catalog:  # refuses old tables
        assert list(catalog.running()) == []


def test_the_dashboard_serves_its_pages(overlay: Overlay, prefect_address: str) -> None:
    import httpx

    overlay.send("interloom-dashboard", aliases={PREFECT: prefect_address})
    address = overlay.wait_until_ready("interloom-dashboard")

    page = httpx.get(f"http://{address}:8501/", timeout=30)

    assert page.status_code == 200
    assert "<title>Streamlit</title>" in page.text
    assert httpx.get(f"http://{address}:8501/_stcore/health", timeout=30).text == "ok"


def test_the_worker_runs_a_flow_under_its_account(
    overlay: Overlay, prefect_address: str, tmp_path: Path
) -> None:
    aliases = {PREFECT: prefect_address}
    overlay.send("interloom-worker", aliases=aliases)
    overlay.wait_until_ready("interloom-worker")
    _deploy(overlay, aliases, tmp_path)

    state = _run(overlay, prefect_address, "sweeper/sweeper")

    assert state == "Completed", overlay.words_of("flow-run")
    spec = overlay.pod("flow-run")["spec"]
    assert spec["serviceAccountName"] == "interloom-flow-runner"


def _deploy(overlay: Overlay, aliases: Mapping[str, str], folder: Path) -> None:
    """With the command that people use; flow runs get the root of their image."""
    template = json.loads((ROOT / "infra/base/job-template.json").read_text())
    spec = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    spec["containers"][0]["image"] = "interloom/flows:0.1.0"
    overlay.adapt(spec, aliases)
    (folder / "template.json").write_text(json.dumps(template))
    body = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    body["definitions"]["interloom"]["base_job_template"] = "template.json"
    for one in body["deployments"]:
        one.pop("schedules", None)
    (folder / "prefect.yaml").write_text(yaml.safe_dump(body))
    env = {
        **environment(),
        "PREFECT_API_URL": f"http://{aliases[PREFECT]}:4200/api",
        "PREFECT_API_AUTH_STRING": overlay.login,
        "INTERLOOM_HOME": str(folder / "home"),
    }
    subprocess.run([*COMMAND, "deploy"], cwd=folder, env=env, check=True, timeout=300)


def _run(overlay: Overlay, address: str, deployment: str) -> str:
    """The state in which a run of a deployment ends."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    named = {PREFECT_API_URL: f"http://{address}:4200/api", PREFECT_API_AUTH_STRING: overlay.login}
    with temporary_settings(named), get_client(sync_client=True) as client:
        offered = client.read_deployment_by_name(deployment)
        small = {"cpu_request": "250m", "memory_request": "256Mi"}  # a node may have two cores
        run = client.create_flow_run_from_deployment(offered.id, job_variables=small)

        def state() -> str:
            found = client.read_flow_run(run.id).state
            return str(found.name) if found is not None else ""

        ends = {"Completed", "Failed", "Crashed", "Cancelled"}
        wait_for(lambda: state() in ends, 300, lambda: overlay.words_of("flow-run"))
        return state()
