"""The fault matrix of store and publishing: real servers, real kills, no violation.

Invariants, after whatever happened: nothing is half visible, no published version fails its
manifest, one runner publishes a key, and the next run ends as an undisturbed one does.
Each seed is in the test's name.
"""

import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
import pytest

from interloom.adapters.folder_store import FolderStore, object_key
from interloom.adapters.s3_bucket import S3Bucket
from interloom.adapters.s3_connection import S3Options
from interloom.adapters.s3_store import S3Store
from interloom.adapters.sql_catalog import SqlCatalog
from interloom.adapters.stores import open_store_at
from interloom.config.s3 import S3Settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError, MissingError, TransientError
from interloom.ports.catalog import RunState
from interloom.ports.store import ArtifactStore
from interloom.stages.contract import StageCall, StageContract, execute_stage, lookup, stage_key
from interloom.testing.launcher import InlineLauncher
from interloom.testing.probe import REGISTRY, ProbeRequest
from interloom.testing.s3_faults import Fault, FaultKind, FaultyWay, Plan, Request, faulty_way
from interloom.testing.s3_server import BUCKET, SECRET_KEY, S3Server, s3_server

pytestmark = pytest.mark.slow

RUNNER = Path(__file__).parent / "dying_runner.py"
CALL = StageCall(stage="probe", request=ProbeRequest(text="hello", num_steps=3), recipe="tiny")
KIND = ArtifactKind.TEXT_CORPUS
SEEDS = (1, 2, 3)
NIGHTLY_SEEDS = range(100, 150)
FAULTS: tuple[FaultKind, ...] = (
    "refuse",
    "drop",
    "lose_answer",
    "cut_answer",
    "flip_answer",
    "flip_request",
)
KillPlace = Literal["statement", "folder-object", "s3-before", "s3-after"]
PLACES: tuple[KillPlace, ...] = ("statement", "folder-object", "s3-before", "s3-after")


def no_fault(_request: Request) -> Fault | None:
    return None


def impatient(server: S3Server, way: FaultyWay | None = None, **changes: object) -> S3Settings:
    known: dict[str, object] = {"timeout_s": 3.0, "patience_s": 30.0}
    if way is not None:
        known["endpoint"] = way.endpoint
    return server.settings(**(known | changes))


def store_at(prefix: str, settings: S3Settings, cache: Path) -> ArtifactStore:
    return open_store_at(f"s3://{BUCKET}/{prefix}", settings, cache_folder=cache)


def publish(store: ArtifactStore, shards: Mapping[str, bytes]) -> ArtifactRef:
    with store.draft(KIND) as draft:
        for path, data in shards.items():
            with draft.shard(path) as shard:
                shard.path.write_bytes(data)
        return draft.commit(licences=["CC0-1.0"])


def assert_whole(store: ArtifactStore, ref: ArtifactRef, shards: Mapping[str, bytes]) -> None:
    manifest = store.manifest(ref)
    assert store.damages(manifest, every_byte=True) == []
    assert {s.path: store.local_path(s).read_bytes() for s in manifest.shards} == dict(shards)


def some_shards(seed: int) -> Mapping[str, bytes]:
    """Three small shards, and one that goes in parts."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    small = {f"rows/{index}.bin": rng.bytes(1000 + index) for index in range(3)}
    return small | {"rows/long.bin": rng.bytes((5 << 20) + 77)}


def now_and_then(seed: int) -> Plan:
    """Any fault on about every third request, never more than twice in a row on one of a kind."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    in_a_row: dict[tuple[str, str], int] = {}

    def plan(request: Request) -> Fault | None:
        place = (request.method, request.path.partition("?")[0])
        if rng.random() > 0.35 or in_a_row.get(place, 0) >= 2:
            in_a_row[place] = 0
            return None
        in_a_row[place] = in_a_row.get(place, 0) + 1
        return Fault(FAULTS[int(rng.integers(len(FAULTS)))])

    return plan


def assert_faults_do_no_harm(server: S3Server, folder: Path, seed: int) -> None:
    shards, prefix = some_shards(seed), f"faults/{uuid4().hex}"
    with faulty_way(server.port, now_and_then(seed)) as way:
        settings = impatient(server, way, part_bytes=5 << 20)
        ref = publish(store_at(prefix, settings, folder / "writer"), shards)
        assert_whole(store_at(prefix, settings, folder / "reader"), ref, shards)
        assert len(way.faults) >= 5
    assert_whole(store_at(prefix, server.settings(), folder / "judge"), ref, shards)


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_on_the_way_to_s3_do_no_harm(s3: S3Server, tmp_path: Path, seed: int) -> None:
    assert_faults_do_no_harm(s3, tmp_path, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", NIGHTLY_SEEDS)
def test_many_faults_on_the_way_to_s3_do_no_harm(s3: S3Server, tmp_path: Path, seed: int) -> None:
    assert_faults_do_no_harm(s3, tmp_path, seed)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("refuse", 503, "SlowDown"), r"within 2 s: SlowDown: as planned; run again"),
        (Fault("refuse", 507, "XMinioStorageFull"), "is full; free some space and run again"),
        (Fault("delay", seconds=1.0), r"within 2 s: ReadTimeoutError; run again"),
        (Fault("drop"), r"within 2 s: ProtocolError; run again"),
        (Fault("flip_request"), r"did not let us write .* within 2 s"),
    ],
    ids=["503", "full", "slow", "dropped", "corrupted"],
)
def test_a_lasting_fault_of_s3_is_an_error_that_may_pass_and_leaves_nothing_visible(
    s3: S3Server, tmp_path: Path, fault: Fault, message: str
) -> None:
    prefix = f"faults/{uuid4().hex}"
    store = store_at(prefix, s3.settings(), tmp_path / "cache")

    def plan(request: Request) -> Fault | None:
        return fault if request.method == "PUT" and "/files/md5/" in request.path else None

    with faulty_way(s3.port, plan) as way:
        settings = impatient(s3, way, timeout_s=0.5, patience_s=2.0)
        faulty = store_at(prefix, settings, tmp_path / "faulty")
        with pytest.raises(TransientError, match=message):
            publish(faulty, {"a.bin": b"one"})

    assert [item for item in store.objects() if item.key.startswith("manifests/")] == []


def test_a_412_of_a_manifest_that_is_or_is_not_there_does_no_harm(
    s3: S3Server, tmp_path: Path
) -> None:
    def plan(request: Request) -> Fault | None:
        is_manifest = request.method == "PUT" and "/manifests/" in request.path
        return Fault("refuse", 412, "PreconditionFailed") if is_manifest else None

    prefix, shards = f"faults/{uuid4().hex}", {"a.bin": b"one"}
    direct = store_at(prefix, s3.settings(), tmp_path / "direct")
    direct.prepare()
    with faulty_way(s3.port, plan) as way:
        # Somebody else's manifest is said to be there, and is not: an error, and nothing visible.
        lied_to = store_at(prefix, impatient(s3, way, patience_s=1.0), tmp_path / "lied-to")
        with pytest.raises(ConfigError, match="refuses: PreconditionFailed"):
            publish(lied_to, shards)
        assert [item for item in direct.objects() if item.key.startswith("manifests/")] == []
    ref = publish(direct, shards)
    assert publish(store_at(prefix, s3.settings(), tmp_path / "second"), shards) == ref
    assert_whole(direct, ref, shards)


def test_a_corrupting_way_is_told_from_a_corrupt_store(s3: S3Server, tmp_path: Path) -> None:
    prefix = f"faults/{uuid4().hex}"
    ref = publish(store_at(prefix, s3.settings(), tmp_path / "writer"), {"a.bin": b"one"})
    shard = store_at(prefix, s3.settings(), tmp_path / "x").manifest(ref).shards[0]

    def once(request: Request) -> Fault | None:
        return Fault("flip_answer") if request.index == 0 else None

    def always(request: Request) -> Fault | None:
        return Fault("flip_answer")

    with faulty_way(s3.port, once) as way:
        path = store_at(prefix, impatient(s3, way), tmp_path / "once").local_path(shard)
        assert path.read_bytes() == b"one"
    with faulty_way(s3.port, always) as way, pytest.raises(DataError, match=r"'a\.bin' is corrupt"):
        store_at(prefix, impatient(s3, way), tmp_path / "always").local_path(shard)
    assert not list((tmp_path / "always").glob("files/md5/*/*"))  # wrong bytes are not cached


def test_a_fault_outside_of_the_sample_is_found_by_its_tag(s3: S3Server, tmp_path: Path) -> None:
    prefix = f"faults/{uuid4().hex}"
    store = store_at(prefix, s3.settings(), tmp_path / "writer")
    shards = {f"{index}.bin": bytes([index]) * (7 << 20) for index in range(3)}
    ref = publish(store, shards)
    last = max(store.manifest(ref).shards, key=lambda shard: shard.sha256)  # beyond the sample
    other = io.BytesIO(b"x" * last.num_bytes)
    key = f"{prefix}/{object_key(last.md5)}"
    s3.client().put_object(BUCKET, key, other, last.num_bytes, part_size=16 << 20)

    with pytest.raises(DataError, match=rf"'{last.path}' is corrupt: .* has sha256"):
        store.verify(ref, every_byte=False)


def test_the_cache_lets_go_of_what_was_not_used_for_longest(s3: S3Server, tmp_path: Path) -> None:
    settings = s3.settings(cache_bytes=5000)
    store = store_at(f"faults/{uuid4().hex}", settings, tmp_path / "cache")
    first = publish(store, {"a.bin": b"a" * 2000})
    for path in (tmp_path / "cache" / "files").rglob("*"):
        os.utime(path, (1, 1))  # not used for long
    second = publish(store, {"b.bin": b"b" * 2000, "c.bin": b"c" * 2000})

    kept = [path.stat().st_size for path in (tmp_path / "cache/files").rglob("*") if path.is_file()]

    assert kept == [2000, 2000]
    assert_whole(store, first, {"a.bin": b"a" * 2000})
    assert_whole(store, second, {"b.bin": b"b" * 2000, "c.bin": b"c" * 2000})


def test_a_server_that_is_really_full_says_so_and_nothing_is_visible(tmp_path: Path) -> None:
    with s3_server(tmp_path / "weed", num_volumes=3, volume_mb=1) as server:
        settings = impatient(server, patience_s=3.0)
        store = store_at("full", settings, tmp_path / "cache")
        rng = np.random.Generator(np.random.Philox(key=1))

        def fill() -> None:
            for index in range(64):
                publish(store, {f"{index}.bin": rng.bytes(2 << 20)})

        with pytest.raises(TransientError, match=r"did not let us write .* within 3 s"):
            fill()

        for item in store.objects():
            if item.key.startswith("manifests/"):
                ref = ArtifactRef(KIND, item.key[len("manifests/") : -len(".json")])
                store.verify(ref, every_byte=True)


def test_a_server_that_is_killed_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    with s3_server(tmp_path / "weed") as server:
        settings = server.settings(patience_s=90.0)
        store = store_at("killed", settings, tmp_path / "cache")
        before = publish(store, {"a.bin": b"before"})
        written: list[tuple[ArtifactRef, bytes]] = []

        def write_on() -> None:
            for index in range(12):
                data = b"%d" % index
                written.append((publish(store, {"a.bin": data}), data))
                time.sleep(0.1)

        thread = threading.Thread(target=write_on)
        thread.start()
        time.sleep(0.5)
        server.kill()
        time.sleep(1.0)
        server.start()
        thread.join()

        assert len(written) == 12
        fresh = store_at("killed", settings, tmp_path / "fresh")
        assert_whole(fresh, before, {"a.bin": b"before"})
        for ref, data in written:
            assert_whole(fresh, ref, {"a.bin": data})


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A real disk of its own, if this machine lets us mount one."""
    folder.mkdir()
    command = ["/usr/bin/env", "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        yield folder
    finally:
        subprocess.run(["/usr/bin/env", "umount", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_disk_that_is_really_full_says_so_and_a_bigger_one_goes_on(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    shards = {f"{index}.bin": bytes([index]) * (1 << 20) for index in range(4)}
    with small_disk(tmp_path / "disk", "size=3m") as disk:
        if kind == "folder":
            small: ArtifactStore = FolderStore(disk)
            big: ArtifactStore = FolderStore(tmp_path / "big")
        else:
            server: S3Server = request.getfixturevalue("s3")
            prefix = f"faults/{uuid4().hex}"
            small = store_at(prefix, server.settings(), disk)
            big = store_at(prefix, server.settings(), tmp_path / "big")

        with pytest.raises(TransientError, match="has no space left; free some and run again"):
            publish(small, shards)

        assert [item for item in small.objects() if item.key.startswith("manifests/")] == []
        assert_whole(big, publish(big, shards), shards)


def test_a_read_only_disk_says_so_before_any_work(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "size=1m,ro") as disk,
        pytest.raises(ConfigError, match="cannot be written: Read-only file system"),
    ):
        FolderStore(disk).prepare()


# Kills of the publishing process


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
            shown, errors = process.communicate(timeout=120)
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
                _, errors = process.communicate(timeout=120)
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
        _, errors = runner.communicate(timeout=300)
        assert runner.returncode in {0, -signal.SIGKILL}, errors

    with home.contract() as contract:
        assert_all_or_nothing(contract)
        outcome = execute_stage(contract, CALL)
        edges = contract.catalog.edges([outcome.run_id])
        records = [contract.catalog.run(edge.run_id) for edge in edges]
        assert outcome.is_hit
        assert records
        assert contract.catalog.dataset("tiny/probe.corpus").version == 1


# A store that is not as it should be


def server_error(settings: S3Settings, url: str, cache: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        open_store_at(url, settings, cache_folder=cache).prepare()
    return str(raised.value)


def test_wrong_credentials_are_named_before_any_work(s3: S3Server, tmp_path: Path) -> None:
    wrong = s3.settings(secret_key="not-the-secret")  # noqa: S106
    unknown = s3.settings(access_key="nobody")

    for settings in (wrong, unknown):
        message = server_error(settings, f"s3://{BUCKET}/x", tmp_path)

        assert "check INTERLOOM_S3_ACCESS_KEY and INTERLOOM_S3_SECRET_KEY" in message
        assert "not-the-secret" not in message


def test_a_missing_bucket_is_named_before_any_work(s3: S3Server, tmp_path: Path) -> None:
    message = server_error(s3.settings(), "s3://not-made-yet/x", tmp_path)

    assert "bucket 'not-made-yet', refuses: there is no such bucket; make it" in message


def test_plain_http_where_tls_is_asked_for_is_named(s3: S3Server, tmp_path: Path) -> None:
    settings = s3.settings(endpoint=f"https://127.0.0.1:{s3.port}")

    message = server_error(settings, f"s3://{BUCKET}/x", tmp_path)

    assert "TLS was asked for, but the server speaks plain HTTP" in message


def test_a_server_without_conditional_writes_is_refused_unless_the_catalog_may_decide(
    s3: S3Server, tmp_path: Path
) -> None:
    with _deaf_to_conditions(s3.port) as endpoint:
        settings = impatient(s3, endpoint=endpoint)
        message = server_error(settings, f"s3://{BUCKET}/{uuid4().hex}", tmp_path / "a")
        assert "does not keep conditional writes: of 8 writers" in message

        settings = impatient(s3, endpoint=endpoint, conditional_writes=False)
        store = store_at(uuid4().hex, settings, tmp_path / "b")
        assert_whole(store, publish(store, {"a.bin": b"one"}), {"a.bin": b"one"})


@contextmanager
def _deaf_to_conditions(port: int) -> Iterator[str]:
    """The server as one that does not know If-None-Match."""
    with faulty_way(port, no_fault, deaf_to=("if-none-match",)) as way:
        yield way.endpoint


def test_a_private_authority_is_trusted_when_it_is_named(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    with s3_server(tmp_path / "weed", tls=tmp_path) as server:
        url = f"s3://{BUCKET}/tls"
        store = open_store_at(
            url, server.settings(ca_file=tmp_path / "ca.crt"), cache_folder=tmp_path / "cache"
        )
        assert_whole(store, publish(store, {"a.bin": b"one"}), {"a.bin": b"one"})

        message = server_error(server.settings(), url, tmp_path / "other")
        assert "certificate is not trusted; name your authority's certificate" in message

        plain = server.settings(endpoint=server.endpoint.replace("https", "http"))
        message = server_error(plain, url, tmp_path / "other")
        assert "is it spoken to with http:// where it wants https://?" in message


def make_certificates(folder: Path) -> None:
    """An authority of our own, and a server's certificate by it."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["/usr/bin/env", "openssl", *arguments], cwd=folder, check=True, capture_output=True
        )

    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        *("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2"),
        *("-subj", "/CN=tests", "-addext", "keyUsage=critical,keyCertSign"),
    )
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
        *("-out", "server.crt", "-days", "2", "-extfile", "names"),
    )


def test_no_secret_is_in_an_error_a_manifest_the_catalog_or_a_log(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = SECRET_KEY
    home = Home(tmp_path / "home", s3, "s3-before")
    with home.begin("never", 0) as process:
        shown, errors = process.communicate(timeout=120)
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


def test_a_listing_goes_on_from_page_to_page(s3: S3Server, tmp_path: Path) -> None:
    settings = s3.settings()
    assert settings.access_key is not None
    assert settings.secret_key is not None
    bucket = S3Bucket(
        S3Options(
            endpoint=s3.endpoint,
            bucket=BUCKET,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
        )
    )
    prefix = f"pages/{uuid4().hex}/"
    keys = [f"{prefix}{index // 3}/{index}" for index in range(7)]
    for key in keys:
        bucket.write(key, b"one")

    for page_size in (1, 2, 3, 7, 1000):
        assert [item.key for item in bucket.list(prefix, page_size=page_size)] == keys


def test_a_missing_artifact_is_missing_whatever_the_way(s3: S3Server, tmp_path: Path) -> None:
    store = store_at("nothing", s3.settings(), tmp_path)

    with ThreadPoolExecutor(4) as pool:
        refs = [ArtifactRef(KIND, f"{index:064d}") for index in range(8)]
        assert list(pool.map(store.holds, refs)) == [False] * 8
    with pytest.raises(MissingError, match="does not hold artifact"):
        store.manifest(refs[0])
