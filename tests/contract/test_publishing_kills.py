"""Kills of whoever publishes, at every step: all or nothing, and the next run ends as any other.

Invariants, after whatever happened: nothing is half visible, no published version fails its
manifest, one runner publishes a key, and the next run ends as an undisturbed one does.
Each seed is in the test's name.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.s3_store import S3Store
from interloom.adapters.sql_catalog import SqlCatalog
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import TransientError
from interloom.ports.catalog import RunState
from interloom.ports.store import ArtifactStore
from interloom.stages.contract import StageCall, StageContract, execute_stage, lookup, stage_key
from interloom.testing.launcher import InlineLauncher
from interloom.testing.probe import REGISTRY, ProbeRequest
from interloom.testing.s3_faults import Fault, FaultKind, Request, faulty_way
from interloom.testing.s3_server import BUCKET, SECRET_KEY, S3Server
from interloom.testing.small_artifacts import impatient, publish, store_at

pytestmark = pytest.mark.slow

RUNNER = Path(__file__).parent / "dying_runner.py"
CALL = StageCall(stage="probe", request=ProbeRequest(text="hello", num_steps=3), recipe="tiny")
SEEDS = (1, 2, 3)
NIGHTLY_SEEDS = range(100, 150)
KillPlace = Literal["statement", "folder-object", "s3-before", "s3-after"]
PLACES: tuple[KillPlace, ...] = ("statement", "folder-object", "s3-before", "s3-after")


class Home:
    """An installation whose runners are killed: catalog and store, and how to start a runner."""

    def __init__(self, folder: Path, server: S3Server, place: KillPlace) -> None:
        self.folder = folder
        self.server = server
        self.place = place
        self.prefix = f"kills/{uuid4().hex}"
        self.is_in_s3 = place.startswith("s3")

    def store(self) -> ArtifactStore:
        if self.is_in_s3:
            return store_at(self.prefix, self.server.settings(), self.folder / "judge")
        return FolderStore(self.folder / "store")

    @contextmanager
    def contract(self) -> Iterator[StageContract]:
        store = self.store()
        catalog = SqlCatalog.connect(f"sqlite:///{self.folder / 'catalog.sqlite'}")
        yield StageContract(
            store=store,
            catalog=catalog,
            launcher=InlineLauncher(store, registry=REGISTRY),
            work_folder=self.folder / "work",
            lease_ttl_s=600,
            registry=REGISTRY,
        )
        catalog.close()

    def begin(self, where: str, count: int, endpoint: str = "") -> "subprocess.Popen[str]":
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {"INTERLOOM_HOME": str(self.folder)}
        if self.is_in_s3:
            settings = self.server.settings()
            assert settings.access_key is not None
            assert settings.secret_key is not None
            found |= {
                "INTERLOOM_STORE_ROOT": f"s3://{BUCKET}/{self.prefix}",
                "INTERLOOM_S3_ENDPOINT": endpoint or settings.endpoint,
                "INTERLOOM_S3_ACCESS_KEY": settings.access_key.get_secret_value(),
                "INTERLOOM_S3_SECRET_KEY": settings.secret_key.get_secret_value(),
            }
        return subprocess.Popen(
            [sys.executable, str(RUNNER), str(self.folder), where, str(count)],
            env=dict(os.environ) | found,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, count: int) -> int:
        """Run until the ``count``-th point of this place, or to the end; how many there were."""
        if self.is_in_s3:
            return self._run_behind_a_proxy(count)
        where = "statement" if self.place == "statement" else "shard"
        with self.begin(where, count) as process:
            shown, errors = process.communicate(timeout=600)
        assert process.returncode in {0, -signal.SIGKILL}, errors
        return int(shown) if process.returncode == 0 else -1

    def _run_behind_a_proxy(self, count: int) -> int:
        kind: FaultKind = "kill_before" if self.place == "s3-before" else "kill_after"
        pid: list[int] = []

        def plan(request: Request) -> Fault | None:
            return Fault(kind, pid=pid[0]) if request.index == count - 1 else None

        with faulty_way(self.server.port, plan) as way:
            with self.begin("never", 0, way.endpoint) as process:
                pid.append(process.pid)
                _, errors = process.communicate(timeout=600)
            assert process.returncode in {0, -signal.SIGKILL}, errors
            return len(way.requests) if process.returncode == 0 else -1


def assert_all_or_nothing(contract: StageContract) -> None:
    """Either no query shows anything of the stage, or all do and its bytes are whole."""
    catalog, key = contract.catalog, stage_key(contract, CALL)
    hit = catalog.find(key)
    if hit is None:
        assert catalog.datasets() == []
        assert all(run.state is not RunState.COMPLETE for run in catalog.runs(limit=1000))
        return
    contract.store.verify(hit.outputs["corpus"], every_byte=True)
    assert catalog.run(hit.run_id).state is RunState.COMPLETE
    assert catalog.dataset("tiny/probe.corpus").ref == hit.outputs["corpus"]
    assert catalog.producer(hit.outputs["corpus"]) == hit.run_id


@pytest.fixture(scope="module")
def undisturbed(
    s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[KillPlace], tuple[int, ArtifactRef]]:
    """How many points a run has that nobody kills, and what comes of it; by place, run once."""
    known: dict[KillPlace, tuple[int, ArtifactRef]] = {}

    def look(place: KillPlace) -> tuple[int, ArtifactRef]:
        if place not in known:
            home = Home(tmp_path_factory.mktemp(place) / "home", s3, place)
            num_points = home.run(100_000)
            with home.contract() as contract:
                hit = lookup(contract, stage_key(contract, CALL))
                assert hit is not None
                known[place] = (num_points, hit.outputs["corpus"])
        return known[place]

    return look


def assert_a_kill_does_no_harm(home: Home, whole: tuple[int, ArtifactRef], seed: int) -> None:
    """Kill a run at a point drawn by the seed; look; run again; look again."""
    num_points, expected = whole
    first = num_points // 2 if home.place == "statement" else 1  # before, the schema is made
    point = int(np.random.Generator(np.random.Philox(key=seed)).integers(first, num_points + 1))

    assert home.run(point) == -1, f"point {point} of {num_points} was not reached"
    with home.contract() as contract:
        assert_all_or_nothing(contract)
        outcome = execute_stage(contract, CALL)
        assert_all_or_nothing(contract)
        assert outcome.result.outputs()["corpus"] == expected
        assert contract.catalog.dataset("tiny/probe.corpus").version == 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_kill_while_publishing_leaves_all_or_nothing(
    s3: S3Server,
    tmp_path: Path,
    undisturbed: Callable[[KillPlace], tuple[int, ArtifactRef]],
    place: KillPlace,
    seed: int,
) -> None:
    assert_a_kill_does_no_harm(Home(tmp_path / "home", s3, place), undisturbed(place), seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", NIGHTLY_SEEDS)
@pytest.mark.parametrize("place", PLACES)
def test_two_hundred_kills_while_publishing_leave_all_or_nothing(
    s3: S3Server,
    tmp_path: Path,
    undisturbed: Callable[[KillPlace], tuple[int, ArtifactRef]],
    place: KillPlace,
    seed: int,
) -> None:
    assert_a_kill_does_no_harm(Home(tmp_path / "home", s3, place), undisturbed(place), seed)


@pytest.mark.parametrize(("num_runners", "num_killed"), [(2, 0), (8, 3)])
def test_of_many_runners_on_one_key_one_publishes_even_if_some_are_killed(
    s3: S3Server, tmp_path: Path, num_runners: int, num_killed: int
) -> None:
    home = Home(tmp_path / "home", s3, "s3-before")
    with home.contract():
        pass  # the schema is there
    runners = [home.begin("never", 0) for _ in range(num_runners)]
    for runner in runners[:num_killed]:
        time.sleep(0.7)
        runner.kill()
    for runner in runners:
        _, errors = runner.communicate(timeout=600)
        assert runner.returncode in {0, -signal.SIGKILL}, errors

    with home.contract() as contract:
        assert_all_or_nothing(contract)
        outcome = execute_stage(contract, CALL)
        edges = contract.catalog.edges([outcome.run_id])
        records = [contract.catalog.run(edge.run_id) for edge in edges]
        assert outcome.is_hit
        assert records
        assert contract.catalog.dataset("tiny/probe.corpus").version == 1


def test_no_secret_is_in_an_error_a_manifest_the_catalog_or_a_log(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = SECRET_KEY
    home = Home(tmp_path / "home", s3, "s3-before")
    with home.begin("never", 0) as process:
        shown, errors = process.communicate(timeout=600)
    assert process.returncode == 0

    messages = [shown, errors, repr(s3.settings()), repr(home.store())]
    for path in ("PUT", "GET", "HEAD"):

        def plan(request: Request, method: str = path) -> Fault | None:
            return Fault("drop") if request.method == method else None

        with faulty_way(s3.port, plan) as way:
            settings = impatient(s3, way, patience_s=0.5)
            store = store_at(home.prefix, settings, tmp_path / path)
            with pytest.raises(TransientError) as raised:
                store.manifest(publish(store, {"a.bin": b"one"}))
            messages.append(repr(raised.value) + repr(raised.value.__context__))

    store = home.store()
    assert isinstance(store, S3Store)
    for item in store.objects():
        data = s3.client().get_object(BUCKET, f"{home.prefix}/{item.key}").read()
        messages.append(data.decode(errors="replace"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    messages += [path.read_bytes().decode(errors="replace") for path in files]
    assert "urllib3" in {record.name.partition(".")[0] for record in caplog.records}
    messages.append(caplog.text)
    assert len(messages) > 10
    assert not [message for message in messages if secret in message or "Signature=" in message]
