"""What every artifact store keeps, on the fake and on the real one."""

import json
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.adapters.folder_store import FolderStore
from interloom.core.artifacts import ArtifactKind, ArtifactRef, tree_md5
from interloom.core.errors import ConfigError, DataError, MissingError, TransientError
from interloom.ports.store import ArtifactStore
from interloom.testing.store import MemoryStore, temporary

MD5_OF_ONE = "f97c5d29941bfb1b2fdab0874906ab82"
KIND = ArtifactKind.TEXT_CORPUS


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "store")


def write(store: ArtifactStore, **shards: bytes) -> ArtifactRef:
    with store.draft(KIND) as draft:
        for name, data in shards.items():
            with draft.shard(f"rows/{name}.bin") as shard:
                shard.path.write_bytes(data)
                shard.count(rows=len(data))
        return draft.commit(licences=["CC0-1.0"], facts={"seed": 7})


def read(store: ArtifactStore, ref: ArtifactRef) -> dict[str, bytes]:
    found = {}
    for shard in store.manifest(ref).shards:
        with store.open_shard(shard) as file:
            found[shard.path] = file.read()
    return found


def test_what_was_committed_is_read_back(store: ArtifactStore) -> None:
    ref = write(store, a=b"one", b=b"three")

    manifest = store.manifest(ref)

    assert read(store, ref) == {"rows/a.bin": b"one", "rows/b.bin": b"three"}
    assert manifest.ref == ref
    assert manifest.count("rows") == 8
    assert manifest.shards[0].md5 == MD5_OF_ONE
    assert store.local_path(manifest.shards[1]).read_bytes() == b"three"


def test_the_same_content_has_the_same_reference(store: ArtifactStore) -> None:
    first = write(store, a=b"one", b=b"two")

    second = write(store, b=b"two", a=b"one")

    assert first == second
    store.verify(first, every_byte=True)


def test_both_stores_give_the_same_reference(tmp_path: Path) -> None:
    assert write(MemoryStore(), a=b"x") == write(FolderStore(tmp_path), a=b"x")


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.binary(), min_size=1))
def test_any_bytes_come_back_whole(shards: dict[str, bytes]) -> None:
    with temporary() as store:
        ref = write(store, **shards)

        assert read(store, ref) == {f"rows/{name}.bin": data for name, data in shards.items()}
        store.verify(ref, every_byte=False)


def test_a_draft_that_is_left_by_an_error_is_forgotten(store: ArtifactStore) -> None:
    expected = write(MemoryStore(), a=b"one")

    with suppress(RuntimeError), store.draft(KIND) as draft:
        with draft.shard("rows/a.bin") as shard:
            shard.path.write_bytes(b"one")
        raise RuntimeError("stop")

    with pytest.raises(MissingError, match="does not hold text_corpus"):
        store.manifest(expected)


def test_a_shard_that_was_not_written_is_refused(store: ArtifactStore) -> None:
    with (
        store.draft(KIND) as draft,
        pytest.raises(DataError, match=r"'a\.bin' was opened, but a\.bin was not written"),
        draft.shard("a.bin"),
    ):
        pass


def test_two_shards_of_one_path_are_refused(store: ArtifactStore) -> None:
    with store.draft(KIND) as draft:
        with draft.shard("a") as shard:
            shard.path.write_bytes(b"1")
        with pytest.raises(DataError, match="'a' is written twice"), draft.shard("a"):
            pass


def test_a_path_that_leaves_the_artifact_is_refused(store: ArtifactStore) -> None:
    with (
        store.draft(KIND) as draft,
        pytest.raises(DataError, match="must be relative"),
        draft.shard("../a"),
    ):
        pass


def test_an_artifact_without_shards_is_refused(store: ArtifactStore) -> None:
    with store.draft(KIND) as draft, pytest.raises(DataError, match="without shards"):
        draft.commit()


def test_a_reference_of_another_kind_is_refused(store: ArtifactStore) -> None:
    ref = write(store, a=b"one")

    with pytest.raises(DataError, match="but it holds text_corpus"):
        store.manifest(ArtifactRef(ArtifactKind.TASKS, ref.id))


def test_the_layout_is_that_of_a_dvc_remote(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)

    ref = write(store, a=b"one")

    md5 = MD5_OF_ONE
    tree = tree_md5(store.manifest(ref).shards)
    held = tmp_path / "files" / "md5" / md5[:2] / md5[2:]
    assert held.read_bytes() == b"one"
    assert stat.S_IMODE(held.stat().st_mode) == 0o444
    assert json.loads(store.object_path(tree).read_text()) == [
        {"md5": md5, "relpath": "rows/a.bin"}
    ]
    assert not any((tmp_path / "staging").iterdir())


def test_a_shard_with_other_bytes_is_named(tmp_path: Path) -> None:
    ref = write(FolderStore(tmp_path), a=b"one", b=b"two")
    store = FolderStore(tmp_path)
    shard = store.manifest(ref).shard("rows/b.bin")
    damage(store.object_path(shard.md5), b"TWO")

    with pytest.raises(DataError, match=r"'rows/b\.bin' is corrupt: .* has sha256"):
        store.verify(ref, every_byte=False)
    with pytest.raises(DataError, match=r"'rows/b\.bin' is corrupt"):
        store.local_path(shard)


def test_a_shard_of_another_size_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    ref = write(store, a=b"one")
    damage(store.object_path(store.manifest(ref).shards[0].md5), b"longer")

    with pytest.raises(DataError, match="has 6 bytes, expected 3"):
        store.verify(ref, every_byte=False)


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    ref = write(store, a=b"one")
    store.object_path(store.manifest(ref).shards[0].md5).unlink()

    with pytest.raises(MissingError, match=r"'rows/a\.bin' is not in the store"):
        store.verify(ref, every_byte=False)


def test_a_manifest_with_other_bytes_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    ref = write(store, a=b"one")
    damage(tmp_path / "manifests" / f"{ref.id}.json", b"{}")

    with pytest.raises(DataError, match=r"the manifest .* is corrupt"):
        store.manifest(ref)


def test_writing_the_content_again_heals_damage(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    ref = write(store, a=b"one", b=b"two")
    damage(store.object_path(store.manifest(ref).shard("rows/b.bin").md5), b"TWO")

    write(store, a=b"one", b=b"two")

    store.verify(ref, every_byte=True)
    assert [path.read_bytes() for path in (tmp_path / "quarantine").iterdir()] == [b"TWO"]


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with (
        pytest.raises(ConfigError, match="cannot be written: Not a directory"),
        FolderStore(tmp_path / "file").draft(KIND),
    ):
        pass


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    def fill() -> None:
        with FolderStore(tmp_path).draft(KIND) as draft, draft.shard("a") as shard:
            shard.path.symlink_to("/dev/full")
            shard.path.write_bytes(b"1")

    with pytest.raises(TransientError, match="has no space left; free some and run again"):
        fill()

    assert not any((tmp_path / "staging").iterdir())


def test_a_link_is_not_taken_for_a_shard(tmp_path: Path) -> None:
    with (
        FolderStore(tmp_path).draft(KIND) as draft,
        pytest.raises(DataError, match="was not written"),
        draft.shard("a") as shard,
    ):
        shard.path.symlink_to("/etc/hostname")


def test_sweeping_removes_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "staging" / "left-behind").mkdir(parents=True)

    with store.draft(KIND) as draft:
        with draft.shard("a") as shard:
            shard.path.write_bytes(b"1")
        too_young = store.sweep(grace_s=3600)
        removed = store.sweep(grace_s=0)
        ref = draft.commit()

    assert (too_young, removed) == (0, 1)
    store.verify(ref, every_byte=True)


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
