"""A recipe as a Prefect flow run on the cluster: worker, flow pod, stage pods, training over two.

The servers (Prefect, PostgreSQL) run on this machine, where pods reach them; everything secret
comes out of Kubernetes secrets.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psutil
import pytest
import sqlalchemy as sa
import yaml

from interloom.adapters.cluster.api import JOBS, PODS
from interloom.adapters.cluster.opening import open_cluster_launcher
from interloom.adapters.sql_catalog import SqlCatalog
from interloom.config.environment import environment
from interloom.testing.local_cluster import (
    HOST,
    ROOT,
    Site,
    flow_job_template,
    kubectl,
    pod_template,
)
from interloom.testing.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, s3_server
from interloom_flows.results import find_run, summarise

KUBERNETES = "PREFECT_INTEGRATIONS_KUBERNETES"
LOGIN = "interloom:hidden-prefect-login"
SHARDED = ("tokenize_speech", "interleave")
CHANGES = (
    "pretrain.train.num_ranks=2",
    "pretrain.train.threads_per_rank=1",
    "interleave.documents_per_shard=25",
)
COMMAND = [sys.executable, "-c", "from interloom_flows.cli import main; main()"]
PREFECT = str(Path(sys.prefix) / "bin/prefect")
Json = dict[str, Any]


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A Prefect server with a login, where pods reach it: address and process."""
    home = tmp_path_factory.mktemp("prefect-server")
    env = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    with socket.create_server((HOST, 0)) as free:
        port = str(free.getsockname()[1])
    words = ["server", "start", "--no-ui", "--host", HOST, "--port", port]
    with running([PREFECT, *words], env, home / "log") as process:
        url = f"http://{HOST}:{port}/api"
        wait_for(lambda: answers(url) or process.poll() is not None, 900)
        assert process.poll() is None, (home / "log").read_text()[-2000:]
        yield url, process.pid


def answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def running(
    command: list[str], env: Mapping[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A server; its whole process group is ended on leaving."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                    member.kill()
            process.wait()


def wait_for(condition: Callable[[], object], limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not so within {limit_s} s"
        time.sleep(1)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server where pods reach it."""
    with s3_server(tmp_path_factory.mktemp("s3") / "data", host=HOST) as server:
        yield server


class Installation:
    """Secrets, profile, job template, deployments and worker of one namespace.

    Artifacts are in S3, whose credentials pods get from a Secret.
    """

    def __init__(
        self, site: Site, database_url: str, prefect_server: tuple[str, int], s3: S3Server
    ) -> None:
        self.site = site
        self.s3 = s3
        self.database_url = database_url
        self.url, self.server_pid = prefect_server
        self.worker_log = site.folder / "worker.log"
        accounts = (ROOT / "infra/base/accounts.yaml").read_text()
        accounts = accounts.replace("namespace: interloom}", f"namespace: {site.namespace}}}")
        kubectl("apply", "-n", site.namespace, "-f", "-", body=accounts)
        self._secret("interloom-database", {"catalog-url": database_url})
        self._secret("interloom-prefect", {"auth-string": LOGIN})
        self._secret("interloom-s3", {"access-key": ACCESS_KEY, "secret-key": SECRET_KEY})
        store = {
            "INTERLOOM_STORE_ROOT": f"s3://{BUCKET}/cluster",
            "INTERLOOM_S3_ENDPOINT": s3.endpoint,
        }
        pod = pod_template(site.folder, store)
        pod["spec"]["containers"][0]["env"] += [
            from_secret(f"INTERLOOM_S3_{half}_KEY", "interloom-s3", f"{half.lower()}-key")
            for half in ("ACCESS", "SECRET")
        ]
        profile = site.profile(
            pod=pod,
            rendezvous_env=[
                from_secret("INTERLOOM_DATABASE_URL", "interloom-database", "catalog-url")
            ],
            fan_out={stage: {"parts": 2, "at_once": 2} for stage in SHARDED},
        )
        template = flow_job_template(site, profile, store)
        (site.folder / "template.json").write_text(json.dumps(template))
        self._deploy()

    @property
    def env(self) -> dict[str, str]:
        """For commands and worker on this machine."""
        return {
            **environment(),
            "PREFECT_API_URL": self.url,
            "PREFECT_API_AUTH_STRING": LOGIN,
            "PREFECT_HOME": str(self.site.folder / "prefect-client"),
            "INTERLOOM_HOME": str(self.site.folder / "client"),
            "DO_NOT_TRACK": "1",
            # Flow runs get the login by reference, not in their job.
            f"{KUBERNETES}_WORKER_API_AUTH_STRING_SECRET_NAME": "interloom-prefect",
            f"{KUBERNETES}_WORKER_API_AUTH_STRING_SECRET_KEY": "auth-string",
            f"{KUBERNETES}_OBSERVER_NAMESPACES": self.site.namespace,
        }

    @contextmanager
    def worker(self) -> Iterator["subprocess.Popen[bytes]"]:
        """A Prefect worker that makes the pods of flow runs."""
        command = [PREFECT, "worker", "start", "--pool", self.site.namespace]
        with running([*command, "--type", "kubernetes"], self.env, self.worker_log) as process:
            yield process

    def start(self, only: str | None, *changes: str) -> UUID:
        """Ask for a run of the smoke recipe."""
        parameters = {"recipe": "smoke", "overrides": [*CHANGES, *changes], "only": only}
        with self.client() as client:
            deployment = client.read_deployment_by_name("pretraining-pipeline/pretraining")
            run = client.create_flow_run_from_deployment(
                deployment.id, parameters={"parameters": parameters}
            )
        return UUID(str(run.id))

    def state(self, run_id: UUID) -> str:
        """Its name, such as Running."""
        with self.client() as client:
            state = client.read_flow_run(run_id).state
        return "" if state is None else str(state.name)

    def story(self, run_id: UUID) -> str:
        """How a flow run stands and what it and its tasks said: for a test that fails."""
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        mine = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        with self.client() as client:
            state = client.read_flow_run(run_id).state
            states = client.read_flow_run_states(run_id)
            tasks = client.read_task_runs(flow_run_filter=mine)
            logs = client.read_logs(limit=200, sort="TIMESTAMP_DESC")
        lines = [f"flow run {state.name}: {state.message}" if state else "no state"]
        lines += [f"  {one.timestamp:%H:%M:%S} {one.name}: {one.message}" for one in states]
        lines += [f"task {one.name}: {one.state.name}: {one.state.message}" for one in tasks]
        lines += [f"  {one.timestamp:%H:%M:%S} {one.message}" for one in reversed(logs)]
        return "\n".join(lines)

    @contextmanager
    def client(self) -> Iterator[Any]:
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        named = {PREFECT_API_URL: self.url, PREFECT_API_AUTH_STRING: LOGIN}
        with temporary_settings(named), get_client(sync_client=True) as client:
            yield client

    def artifacts(self) -> Mapping[str, str]:
        """Output name to id, of the last complete run."""
        return artifacts_in(self.database_url)

    def _secret(self, name: str, data: Mapping[str, str]) -> None:
        metadata = {"name": name, "namespace": self.site.namespace}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
        kubectl("apply", "-f", "-", body=json.dumps(body))

    def _deploy(self) -> None:
        """With the command that people use, on a file of this namespace."""
        body = yaml.safe_load((ROOT / "prefect.yaml").read_text())
        body["definitions"]["interloom"]["base_job_template"] = "template.json"
        for deployment in body["deployments"]:
            deployment["work_pool"]["name"] = self.site.namespace
        (self.site.folder / "prefect.yaml").write_text(yaml.safe_dump(body))
        subprocess.run(
            [*COMMAND, "deploy"], cwd=self.site.folder, env=self.env, check=True, timeout=120
        )


def from_secret(name: str, secret: str, key: str) -> Json:
    """An environment variable that a pod gets by reference."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


@pytest.fixture(scope="module")
def installed(
    site: Site, database_url: str, prefect_server: tuple[str, int], s3: S3Server
) -> Installation:
    return Installation(site, database_url, prefect_server, s3)


def artifacts_in(url: str) -> Mapping[str, str]:
    catalog = SqlCatalog.connect(url)
    try:
        summary = summarise(catalog, find_run(catalog, "last"))
    finally:
        catalog.close()
    return {name: ref.id for name, ref in summary.outputs.items()}


def run_here(home: Path, only: str | None, *changes: str) -> Mapping[str, str]:
    """The artifacts of the same recipe, with two ranks as processes of this machine."""
    home.mkdir(parents=True, exist_ok=True)
    words = [word for change in (*CHANGES, *changes) for word in ("--set", change)]
    until = ["--only", only] if only else []
    env = {**environment(), "INTERLOOM_HOME": str(home)}
    subprocess.run([*COMMAND, "run", "smoke", *words, *until], env=env, cwd=home, check=True)
    return artifacts_in(f"sqlite:///{home / 'catalog.sqlite'}")


def finish(installed: Installation, run_id: UUID, limit_s: float) -> str:
    """Wait for an end that no automation or retry changes."""
    ends = {"Completed", "Failed", "Cancelled"}
    wait_for(lambda: installed.state(run_id) in ends, limit_s)
    return installed.state(run_id)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this machine computes for comparison."""
    return tmp_path_factory.mktemp("here")


def test_a_recipe_runs_as_a_flow_run_with_the_artifacts_of_a_local_run(
    installed: Installation, here: Path
) -> None:
    with installed.worker():
        run_id = installed.start("pretrain")
        assert finish(installed, run_id, 400) == "Completed"

    assert installed.artifacts() == run_here(here, "pretrain")
    ranks = installed.site.api.items(PODS, labelSelector="interloom.dev/stage=pretrain")
    assert {one["metadata"]["labels"]["interloom.dev/rank"] for one in ranks} == {"0", "1"}
    parts = installed.site.api.items(JOBS, labelSelector="interloom.dev/part")
    labels = [one["metadata"]["labels"] for one in parts]
    assert {(one["interloom.dev/stage"], one["interloom.dev/part"]) for one in labels} == {
        (stage, part) for stage in SHARDED for part in ("0-of-2", "1-of-2")
    }
    check_nothing_secret_is_told(installed, run_id)


def test_training_that_a_node_gives_up_goes_on_from_its_checkpoint_with_the_same_weights(
    installed: Installation, here: Path
) -> None:
    changes = ("pretrain.train.num_steps=200", "pretrain.train.checkpoint_every_steps=199")
    site = installed.site
    progress = "work/*/progress.jsonl"

    def is_training() -> bool:
        lines = [
            json.loads(path.read_text().splitlines()[-1]) for path in site.folder.glob(progress)
        ]
        return any(line["total"] == 200 and 20 <= line["done"] < 150 for line in lines)

    with installed.worker():
        run_id = installed.start("pretrain", *changes)
        wait_for(is_training, 200)
        (rank_1,) = site.api.items(
            PODS,
            labelSelector="interloom.dev/stage=pretrain,interloom.dev/rank=1",
            fieldSelector="status.phase=Running",
        )
        kubectl("delete", "pod", rank_1["metadata"]["name"], "-n", site.namespace, "--wait=false")
        assert finish(installed, run_id, 400) == "Completed"

    with installed.client() as client:
        messages = [log.message for log in client.read_logs()]
    assert any(message.startswith("pretrain: starts again: ") for message in messages)
    assert installed.artifacts() == run_here(here, "pretrain", *changes)


def check_nothing_secret_is_told(installed: Installation, run_id: UUID) -> None:
    """Neither password nor login is in a manifest, a log, a parameter, a file or the catalog."""
    site = installed.site
    texts = {"worker log": installed.worker_log.read_text()}
    texts["jobs"] = json.dumps(site.api.items(JOBS))
    texts["pods"] = json.dumps(site.api.items(PODS))
    for pod in site.pods():
        name = pod["metadata"]["name"]
        texts[f"log of {name}"] = kubectl("logs", name, "-n", site.namespace, check=False)
    with installed.client() as client:
        texts["flow run"] = client.read_flow_run(run_id).model_dump_json()
        texts["flow logs"] = " ".join(log.message for log in client.read_logs())
    engine = sa.create_engine(installed.database_url)
    with engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f'SELECT * FROM "{table}"'))  # noqa: S608
            texts[f"table {table}"] = " ".join(str(row) for row in rows)
    engine.dispose()
    for path in site.folder.rglob("*"):
        if path.is_file():
            texts[str(path)] = path.read_bytes().decode(errors="replace")
    client = installed.s3.client()
    for stored in client.list_objects(BUCKET, recursive=True):
        data = client.get_object(BUCKET, stored.object_name or "").data
        texts[f"s3: {stored.object_name}"] = data.decode(errors="replace")
    assert any("manifest" in where for where in texts if where.startswith("s3: "))
    password = installed.database_url.split(":")[2].split("@")[0]
    secrets = [LOGIN, LOGIN.partition(":")[2], password, SECRET_KEY]
    told = [where for where, text in texts.items() for secret in secrets if secret in text]
    assert told == []
    assert len(texts) > 50


def api_server() -> psutil.Process:
    return next(
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"].startswith("kube-apiserver")
    )


KINDS = ("flow pod", "training pod", "data pod", "worker", "API server", "Prefect server")


class Disturber:
    """Kills one thing at a time: every kind in a random order, then every kind again.

    ``first`` comes before that, in its order: so a round that went wrong is played again.
    """

    def __init__(self, installed: Installation, seed: int, first: Sequence[str] = ()) -> None:
        self.installed = installed
        self.random = np.random.default_rng(seed)
        self.done: list[str] = []
        self._left = list(first)

    def disturb_until_done(self, run_id: UUID) -> None:
        """Kill every 5 to 20 s while the run goes on; what is away comes back."""
        while not self._is_over(run_id):
            with self.installed.worker() as worker:
                while worker.poll() is None and not self._is_over(run_id):
                    time.sleep(float(self.random.uniform(5, 20)))
                    while not self._is_over(run_id) and not self._disturb(worker):
                        time.sleep(1)

    def _is_over(self, run_id: UUID) -> bool:
        return self.installed.state(run_id) in {"Completed", "Failed", "Cancelled"}

    def _disturb(self, worker: "subprocess.Popen[bytes]") -> bool:
        """One kill: of the next kind that there is something of, if there is."""
        pods = {
            "flow pod": "interloom.dev/role=flow-run",
            "training pod": "interloom.dev/stage=pretrain",
            "data pod": f"interloom.dev/stage in ({', '.join(SHARDED)})",
        }
        self._left = self._left or [str(kind) for kind in self.random.permutation(KINDS)]
        for what in self._left:
            if what not in pods or self._kill_one(pods[what]):
                sys.stdout.write(f"{time.strftime('%X')} {what}\n")
                self._disturb_server(what, worker)
                self.done.append(what)
                self._left.remove(what)
                return True
        return False

    def _disturb_server(self, what: str, worker: "subprocess.Popen[bytes]") -> None:
        """Kill the worker, or let a server be silent for a while."""
        if what == "worker":
            worker.kill()
            worker.wait()
        if what == "API server":
            with frozen(api_server()):
                time.sleep(30)
        if what == "Prefect server":
            with frozen(psutil.Process(self.installed.server_pid)):
                time.sleep(60)

    def _kill_one(self, selector: str) -> bool:
        """Whether there was a running pod to kill."""
        site = self.installed.site
        alive = site.api.items(PODS, labelSelector=selector, fieldSelector="status.phase=Running")
        if not alive:
            return False
        name = alive[int(self.random.integers(len(alive)))]["metadata"]["name"]
        words = ("delete", "pod", name, "-n", site.namespace, "--grace-period=0", "--force")
        kubectl(*words, check=False)
        return True


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """A process that answers nothing for a while."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def published_once(installed: Installation) -> None:
    """No stage key was computed to the end twice."""
    engine = sa.create_engine(installed.database_url)
    with engine.connect() as connection:
        keys = connection.scalars(
            sa.text(
                "SELECT stage_key FROM run WHERE state = 'complete' AND stage_key IS NOT NULL "
                "AND origin_run_id IS NULL"
            )
        ).all()
    engine.dispose()
    assert len(keys) == len(set(keys))


def again() -> tuple[int, list[str]] | None:
    """The round and the kills that ``INTERLOOM_KILLS`` names, such as ``3:API server,worker``."""
    round_, _, kills = environment().get("INTERLOOM_KILLS", "").partition(":")
    return (int(round_), kills.split(",")) if kills else None


@pytest.mark.nightly
def test_twenty_random_kills_change_no_artifact_and_leave_no_orphan(
    installed: Installation, tmp_path: Path
) -> None:
    seed = 20261120
    replayed = again()
    disturber = Disturber(installed, seed, replayed[1] if replayed else ())
    rounds = [replayed[0]] if replayed else range(40)
    for round_ in rounds:  # each of another seed, so that there is work to disturb
        if len(disturber.done) >= 20:
            break
        before = len(disturber.done)
        change = f"seed={round_ + 1}"
        run_id = installed.start("pretrain", change)
        disturber.disturb_until_done(run_id)
        kills = f"INTERLOOM_KILLS='{round_}:{','.join(disturber.done[before:])}'"
        sys.stdout.write(f"{time.strftime('%X')} {kills} {installed.state(run_id)}\n")
        assert installed.state(run_id) == "Completed", f"{kills}\n{installed.story(run_id)}"
        made = installed.artifacts()
        assert made == run_here(tmp_path / str(round_), "pretrain", change), kills
    if replayed is None:
        assert len(disturber.done) >= 20
        assert set(disturber.done) == set(KINDS), disturber.done
    published_once(installed)
    for _ in range(2):
        profile = installed.site.profile()
        open_cluster_launcher("jobs", profile).reconcile(set(), grace_s=0)
    assert not [job for job in installed.site.jobs() if job["status"].get("active")]
