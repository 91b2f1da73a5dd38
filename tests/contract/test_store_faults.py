"""Faults on the way to S3, of its server and of disks: nothing half visible, nothing lost.

Each seed is in the test's name.
"""

import io
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from interloom.adapters.checked_store import object_key
from interloom.adapters.folder_store import FolderStore
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError, DataError, TransientError
from interloom.ports.store import ArtifactStore
from interloom.testing.s3_faults import Fault, FaultKind, Plan, Request, faulty_way
from interloom.testing.s3_server import BUCKET, S3Server, s3_server
from interloom.testing.small_artifacts import KIND, assert_whole, impatient, publish, store_at

pytestmark = pytest.mark.slow

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
        settings = impatient(server, way, part_bytes=5 << 20, timeout_s=10.0, patience_s=120.0)
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


def test_parts_of_an_upload_that_died_are_ended_by_a_sweep(s3: S3Server, tmp_path: Path) -> None:
    """A fault in the middle of an upload whose writer cannot even say that it gives up."""

    def plan(request: Request) -> Fault | None:
        is_abort = request.method == "DELETE" and "uploadId=" in request.path
        is_over = is_abort or "partNumber=2" in request.path
        return Fault("drop") if is_over else None

    prefix = f"faults/{uuid4().hex}"
    store = store_at(prefix, s3.settings(), tmp_path / "cache")
    with faulty_way(s3.port, plan) as way:
        settings = impatient(s3, way, part_bytes=5 << 20, patience_s=0.5)
        with pytest.raises(TransientError, match="did not let us write part 2"):
            publish(store_at(prefix, settings, tmp_path / "faulty"), some_shards(1))

    assert store.sweep(grace_s=3600) == 0  # it may be somebody's who is slow
    assert (store.sweep(grace_s=0), store.sweep(grace_s=0)) == (1, 0)
    assert_whole(store, publish(store, some_shards(1)), some_shards(1))
