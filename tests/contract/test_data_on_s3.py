"""``interloom data`` on a real S3 server: damage is found, named and healed; garbage goes."""

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from interloom.bootstrap import Services, connect
from interloom.config.settings import load_settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.ids import new_run_id
from interloom.ports.catalog import RunStart, RunState
from interloom.testing.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from interloom_flows.cli.application import run_command

pytestmark = pytest.mark.slow

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def services(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setenv("INTERLOOM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INTERLOOM_STORE_ROOT", f"s3://{BUCKET}/data/{uuid4().hex}")
    monkeypatch.setenv("INTERLOOM_S3_ENDPOINT", s3.endpoint)
    monkeypatch.setenv("INTERLOOM_S3_ACCESS_KEY", ACCESS_KEY)
    monkeypatch.setenv("INTERLOOM_S3_SECRET_KEY", SECRET_KEY)
    opened = connect(load_settings())
    yield opened
    opened.close()


@pytest.fixture
def command(services: Services, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str]:
        code = run_command(["data", *arguments])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def publish(services: Services, text: bytes) -> ArtifactRef:
    run_id = new_run_id()
    services.catalog.start_run(RunStart(run_id, "test", "corpus"))
    with services.store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        with draft.shard("a.txt") as shard:
            shard.path.write_bytes(text)
        ref = draft.commit()
    services.catalog.publish_dataset("corpus", services.store.manifest(ref), run_id)
    services.catalog.end_run(run_id, RunState.COMPLETE)
    return ref


def damage(s3: S3Server, services: Services, ref: ArtifactRef, data: bytes) -> str:
    md5 = services.store.manifest(ref).shards[0].md5
    key = f"files/md5/{md5[:2]}/{md5[2:]}"
    prefix = services.store.url.removeprefix(f"s3://{BUCKET}/")
    s3.client().put_object(BUCKET, f"{prefix}/{key}", io.BytesIO(data), len(data))
    return key


@pytest.mark.parametrize("data", [b"a text that is longer", b"a texu"], ids=["longer", "one-bit"])
def test_a_damaged_object_is_found_named_and_healed(
    s3: S3Server, services: Services, command: Command, tmp_path: Path, data: bytes
) -> None:
    ref = publish(services, b"a text")
    mirror = str(tmp_path / "mirror")
    assert command("push", "corpus", "--to", mirror)[0] == 0
    assert command("verify") == (0, "1 artifacts are whole.\n")

    key = damage(s3, services, ref, data)
    code, said = command("verify")
    assert code == 65
    assert f"corpus@1: shard 'a.txt': {services.store.url}/{key} has" in said
    assert "healed shard 'a.txt'" in command("heal")[1]  # from this machine's cache
    services.store.verify(ref, every_byte=True)

    damage(s3, services, ref, data)
    shutil.rmtree(tmp_path / "home" / "cache")
    code, said = command("heal")
    assert code == 65
    assert "no other copy of shard 'a.txt' was found" in said
    assert command("heal", "--from", mirror)[0] == 0
    assert command("verify") == (0, "1 artifacts are whole.\n")


def test_garbage_of_s3_goes_and_what_is_needed_stays(services: Services, command: Command) -> None:
    old, new = publish(services, b"old"), publish(services, b"new")

    assert "Nothing was removed" in command("gc", "--older-than-hours", "0")[1]
    services.store.verify(old, every_byte=True)
    code, said = command("gc", "--older-than-hours", "0", "--remove")

    assert code == 0, said
    assert not services.store.holds(old)
    services.store.verify(new, every_byte=True)
    assert SECRET_KEY not in said
