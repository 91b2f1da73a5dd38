"""``interloom data``: naming, checking, healing, copying and cleaning what was published."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.bootstrap import Services, connect
from interloom.config.settings import Settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, Shard
from interloom.core.errors import MissingError, TransientError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import RunStart, RunState
from interloom.ports.store import Damage
from interloom.stages.leasing import alone
from interloom.stages.sweeping import reconcile
from interloom_flows.cli.application import run_command
from interloom_flows.data.copies import pull_known, push
from interloom_flows.data.garbage import find_garbage, needed, remove_garbage

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTERLOOM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("INTERLOOM_STORE_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def services(home: Path) -> Iterator[Services]:
    opened = connect(Settings(home=home))
    yield opened
    opened.close()


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(["data", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def publish(
    services: Services,
    name: str,
    text: str,
    *,
    kind: ArtifactKind = ArtifactKind.TEXT_CORPUS,
    parents: Sequence[ArtifactRef] = (),
) -> ArtifactRef:
    """One version of a name, made from its parents by a run of its own."""
    run_id = new_run_id()
    services.catalog.start_run(RunStart(run_id, "test", name))
    with services.store.draft(kind) as draft:
        for part, data in (("a", text), ("b", "always the same")):
            with draft.shard(f"text/{part}.txt") as shard:
                shard.path.write_text(data)
                shard.count(rows=len(data))
        ref = draft.commit(parents=parents, licences=["CC0-1.0"], facts={"text": text})
    services.catalog.publish_dataset(name, services.store.manifest(ref), run_id)
    services.catalog.end_run(run_id, RunState.COMPLETE)
    return ref


def object_of(services: Services, ref: ArtifactRef, path: str = "text/a.txt") -> Path:
    md5 = services.store.manifest(ref).shard(path).md5
    found = Path(services.store.url) / "files" / "md5" / md5[:2] / md5[2:]
    found.chmod(0o644)
    return found


def test_an_alias_stands_for_a_version_until_it_moves(services: Services, command: Command) -> None:
    publish(services, "corpus", "one")
    publish(services, "corpus", "two")

    assert command("tag", "corpus@1", "good")[1] == "corpus@good now stands for version 1\n"
    assert "corpus, version 1" in command("show", "corpus@good")[1]
    command("tag", "corpus", "good")
    shown = command("show", "corpus@good")[1]
    assert "corpus, version 2" in shown
    assert "aliases: good" in shown
    assert command("tag", "corpus@good", "good", "--remove")[0] == 0

    history = command("tag", "corpus")[1].splitlines()
    assert [line.split("good: ")[1].split(",")[0] for line in history] == [
        "version 1",
        "version 2",
        "taken away",
    ]
    assert command("show", "corpus@good")[0] == 69


@pytest.mark.parametrize("alias", ["1st", "a b", "a/b", "../up", ""])
def test_an_alias_that_could_be_taken_for_something_else_is_refused(
    services: Services, command: Command, alias: str
) -> None:
    publish(services, "corpus", "one")

    code, _, error = command("tag", "corpus", alias)

    assert code == 64
    assert "begins with a letter" in error


def test_two_versions_are_compared(services: Services, command: Command) -> None:
    publish(services, "corpus", "one")
    publish(services, "corpus", "three")

    _, out, _ = command("diff", "corpus@1", "corpus@2")

    assert out.splitlines() == [
        "bytes: 18 -> 20 (+2)",
        "rows: 18 -> 20 (+2)",
        "facts.text: one -> three",
        "shard text/a.txt: other bytes, +2",
    ]
    assert command("diff", "corpus@1", "corpus@1")[1] == "They are the same.\n"


@pytest.mark.parametrize("data", [b"onf", b"longer", None], ids=["flipped-bit", "longer", "lost"])
def test_damage_is_found_named_and_healed_from_another_store(
    services: Services, command: Command, tmp_path: Path, data: bytes | None
) -> None:
    ref = publish(services, "corpus", "one")
    publish(services, "whole", "other")
    assert command("push", "--to", str(tmp_path / "mirror"))[0] == 0
    assert command("verify") == (0, "2 artifacts are whole.\n", "")
    path = object_of(services, ref)
    path.unlink() if data is None else path.write_bytes(data)

    code, out, _ = command("verify")
    assert code == 65
    assert f"corpus@1: shard 'text/a.txt': {path}" in out
    assert "1 of 2 artifacts are damaged" in out

    code, out, _ = command("heal")
    assert code == 65
    assert "still damaged: no other copy of shard 'text/a.txt' was found in: none was named" in out

    code, out, _ = command("heal", "--from", str(tmp_path / "mirror"))
    assert code == 0
    assert "corpus@1: healed shard 'text/a.txt'" in out
    assert path.read_bytes() == b"one"
    assert command("verify")[0] == 0


def test_a_mirror_that_is_set_heals_without_being_named(
    services: Services, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = publish(services, "corpus", "one")
    command("push", "corpus", "--to", str(tmp_path / "mirror"))
    object_of(services, ref).write_bytes(b"onf")
    monkeypatch.setenv("INTERLOOM_STORE_MIRRORS", f'["{tmp_path / "mirror"}"]')

    assert command("verify")[0] == 65
    assert command("heal")[0] == 0
    assert command("verify")[0] == 0


def test_a_lost_manifest_and_a_damaged_tree_are_healed_from_the_catalog(
    services: Services, command: Command
) -> None:
    ref = publish(services, "corpus", "one")
    (Path(services.store.url) / "manifests" / f"{ref.id}.json").unlink()
    [tree] = Path(services.store.url).glob("files/md5/*/*.dir")
    tree.chmod(0o644)
    tree.write_text("[]")

    code, out, _ = command("verify", "corpus")
    assert code == 65
    assert "shard 'manifest'" in out
    assert "shard '.dir'" in out

    assert command("heal", "corpus")[0] == 0
    assert command("verify", "corpus")[0] == 0


def test_a_copy_that_is_damaged_itself_does_not_heal(
    services: Services, command: Command, tmp_path: Path
) -> None:
    ref = publish(services, "corpus", "one")
    mirror = tmp_path / "mirror"
    command("push", "corpus", "--to", str(mirror))
    path = object_of(services, ref)
    copy = mirror / path.relative_to(services.store.url)
    copy.chmod(0o644)
    copy.write_bytes(b"two")
    path.write_bytes(b"onf")

    code, out, _ = command("heal", "corpus", "--from", str(mirror))

    assert code == 65
    assert "still damaged: no other copy of shard 'text/a.txt' was found" in out
    assert path.read_bytes() == b"onf"


def test_what_is_pushed_is_pulled_by_another_installation_through_a_dvc_file(
    services: Services, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = publish(services, "corpus", "one")
    model = publish(
        services, "model", "weights", kind=ArtifactKind.LANGUAGE_MODEL, parents=[corpus]
    )
    mirror = str(tmp_path / "mirror")
    out = command("push", "model", "--parents", "--to", mirror)[1]
    assert "2 artifacts are whole in" in out
    assert "was there already" in command("push", "model", "--to", mirror)[1]
    command("export", "model", "--to", str(tmp_path / "face"))

    monkeypatch.setenv("INTERLOOM_HOME", str(tmp_path / "elsewhere"))
    code, out, _ = command(
        "pull", str(tmp_path / "face" / "model.dvc"), "--from", mirror, "--name", "theirs"
    )

    assert code == 0
    assert "published as theirs@1" in out
    other = connect(Settings(home=tmp_path / "elsewhere"))
    assert other.catalog.dataset("theirs").ref == model
    other.store.verify(model, every_byte=True)
    other.close()


def test_what_this_store_lost_is_pulled_again(
    services: Services, command: Command, tmp_path: Path
) -> None:
    ref = publish(services, "corpus", "one")
    command("push", "--to", str(tmp_path / "mirror"))
    object_of(services, ref).unlink()

    assert "1 shards, 3 B" in command("pull", "corpus", "--from", str(tmp_path / "mirror"))[1]
    services.store.verify(ref, every_byte=True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["push", "--to", "ftp://there"], 64, "a store is a folder or s3://bucket/prefix"),
        (["push", "--to", "s3://bucket/x"], 64, "needs credentials: set INTERLOOM_S3_ACCESS_KEY"),
        (["push", "--to", "home/store"], 64, "is this installation's own store"),
        (["pull", "nothing.dvc", "--from", "there"], 65, "nothing.dvc cannot be read"),
        (["pull", "corpus", "--from", "there"], 69, "no dataset is called 'corpus'"),
        (["verify", "corpus@2"], 69, "corpus"),
        (["import-url", "https://me:x@h/y", "--name", "n"], 64, "holds credentials or options"),
        (["import-url", "raw", "--name", "../n"], 64, "a name is up to 128"),
        (["import-url", "raw", "--name", "n" * 300], 64, "... of 300 characters"),
        (["pull", "x.dvc", "--from", "there", "--name", "a..b"], 64, "without '..', got 'a..b'"),
        (["gc", "--keep", "0"], 2, "Invalid value for '--keep'"),
    ],
)
def test_a_mistake_is_one_line(
    command: Command, arguments: list[str], code: int, message: str
) -> None:
    got, out, error = command(*arguments)

    assert (got, out) == (code, "")
    assert message in error
    assert error.count("\n") == 1


def test_gc_removes_nothing_unless_it_is_told_to(services: Services, command: Command) -> None:
    old = publish(services, "corpus", "one")
    publish(services, "corpus", "two")

    code, out, _ = command("gc", "--older-than-hours", "0")

    assert code == 0
    assert f"not needed: {old} (corpus@1)" in out
    assert "1 artifacts are needed; 1 are not, with 2 objects" in out
    assert "Nothing was removed" in out
    services.store.verify(old, every_byte=True)


def test_gc_keeps_what_a_live_model_was_made_from(services: Services, command: Command) -> None:
    used = publish(services, "corpus", "one")
    model = publish(services, "model", "weights", kind=ArtifactKind.CHAT_MODEL, parents=[used])
    tagged = publish(services, "corpus", "two")
    command("tag", "corpus@2", "good")
    unused = publish(services, "corpus", "three")
    newest = publish(services, "corpus", "four")

    assert needed(services.catalog, keep=1) == {used, model, tagged, newest}
    code, out, _ = command("gc", "--older-than-hours", "0", "--remove")

    assert code == 0
    assert "freed." in out
    for ref in (used, model, tagged, newest):
        services.store.verify(ref, every_byte=True)
    with pytest.raises(MissingError):
        services.store.manifest(unused)
    [entry] = services.catalog.audit(subject=f"{unused.kind}:{unused.id}")
    assert entry.action == "gc"
    assert command("verify") == (0, "4 artifacts are whole.\n", "")  # what went is not missed
    assert list(reconcile(services.contract)) == []


def test_gc_leaves_alone_what_is_young_or_of_another_catalog(services: Services) -> None:
    publish(services, "corpus", "one")
    publish(services, "corpus", "two")
    with services.store.draft(ArtifactKind.TASKS) as draft:
        with draft.shard("a") as shard:
            shard.path.write_text("of another catalog")
        stranger = draft.commit()

    def found(grace_s: float, *, unknown: bool = False) -> int:
        garbage = find_garbage(
            services.catalog,
            services.store,
            keep=1,
            grace_s=grace_s,
            unknown=unknown,
        )
        return len(garbage.manifests)

    assert (found(3600), found(0), found(0, unknown=True)) == (0, 1, 2)
    services.store.verify(stranger, every_byte=True)


def test_gc_waits_for_running_stages(services: Services) -> None:
    publish(services, "corpus", "one")
    catalog, store = services.catalog, services.store
    assert find_garbage(catalog, store, keep=1, grace_s=0, unknown=False).num_needed == 1
    lease = catalog.acquire("a-stage", "somebody", ttl_s=30)
    assert lease is not None

    with (
        pytest.raises(TransientError, match="a run goes on and may need what would go"),
        alone(catalog, ttl_s=30),
    ):
        pass
    catalog.release(lease)
    with (
        alone(catalog, ttl_s=30),
        pytest.raises(TransientError, match="another clean-up is going on"),
        alone(catalog, ttl_s=30),
    ):
        pass


class Paused(FolderStore):
    """A store that waits, before it takes a copy and before it removes, until it may go on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.is_reached = threading.Event()
        self.may_go_on = threading.Event()

    def _pause(self) -> None:
        self.is_reached.set()
        assert self.may_go_on.wait(30)

    def admit(
        self, manifest: Manifest, fetch: Callable[[Shard], Path], *, every_byte: bool
    ) -> Sequence[Damage]:
        self._pause()
        return super().admit(manifest, fetch, every_byte=every_byte)

    def remove(self, key: str, *, grace_s: float) -> bool:
        self._pause()
        return super().remove(key, grace_s=grace_s)


def test_gc_does_not_begin_while_something_is_pushed(
    services: Services, command: Command, tmp_path: Path
) -> None:
    old = publish(services, "corpus", "one")
    version = services.catalog.dataset("corpus")
    publish(services, "corpus", "two")
    target = Paused(tmp_path / "target")
    with ThreadPoolExecutor() as pool:
        pushed = pool.submit(push, services, [version], target, parents=False)
        target.is_reached.wait(30)
        code, _, err = command("gc", "--older-than-hours", "0", "--remove")
        target.may_go_on.set()
        pushed.result()

    assert (code, "a run goes on and may need what would go" in err) == (75, True)
    target.verify(old, every_byte=True)
    assert command("gc", "--older-than-hours", "0", "--remove")[0] == 0
    assert not services.store.holds(old)


def test_a_pull_waits_for_a_gc_that_goes_on(services: Services, tmp_path: Path) -> None:
    old = publish(services, "corpus", "one")
    version = services.catalog.dataset("corpus")
    publish(services, "corpus", "two")
    mirror = FolderStore(tmp_path / "mirror")
    push(services, [version], mirror, parents=False)
    store, catalog = Paused(Path(services.store.url)), services.catalog

    def clean() -> None:
        with alone(catalog, ttl_s=5):
            found = find_garbage(catalog, store, keep=1, grace_s=0, unknown=False)
            remove_garbage(catalog, store, found, grace_s=0, who="me")

    with ThreadPoolExecutor() as pool:
        cleaned = pool.submit(clean)
        store.is_reached.wait(30)
        pulled = pool.submit(pull_known, services, [version], mirror)
        while not catalog.running():  # it has begun, and looks for a clean-up before it reads
            pass
        assert not pulled.done()
        store.may_go_on.set()
        cleaned.result()
        copies = pulled.result()

    assert [copied.ref for copied in copies] == [old]
    services.store.verify(old, every_byte=True)
