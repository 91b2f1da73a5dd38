"""What every artifact store keeps: the fake, the folder and S3."""

import io
import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.adapters.checked_store import manifest_key, object_key
from interloom.adapters.folder_store import FolderStore
from interloom.adapters.mirrored_store import MirroredStore
from interloom.adapters.stores import open_store_at
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Shard, tree_md5
from interloom.core.errors import ConfigError, DataError, MissingError, TransientError
from interloom.ports.store import TREE, ArtifactStore
from interloom.testing.s3_server import BUCKET, S3Server
from interloom.testing.store import MemoryStore, temporary

MD5_OF_ONE = "f97c5d29941bfb1b2fdab0874906ab82"
KIND = ArtifactKind.TEXT_CORPUS


@dataclass(frozen=True, slots=True)
class Kept:
    """A store that keeps its objects, with the means to look at them and to damage them."""

    store: ArtifactStore
    reopen: Callable[[], ArtifactStore]
    read: Callable[[str], bytes]
    damage: Callable[[str, bytes | None], None]
    names: Callable[[str], list[str]]


def kept_in_folder(folder: Path) -> Kept:
    root = folder / "store"

    def damage(key: str, data: bytes | None) -> None:
        path = root / key
        path.chmod(0o644)
        path.unlink() if data is None else path.write_bytes(data)

    return Kept(
        FolderStore(root),
        lambda: FolderStore(root),
        lambda key: (root / key).read_bytes(),
        damage,
        lambda prefix: [path.name for path in (root / prefix).glob("*")],
    )


def kept_in_s3(server: S3Server, folder: Path) -> Kept:
    client, prefix = server.client(), f"contract/{folder.name}"

    def reopened(cache: str) -> ArtifactStore:
        url = f"s3://{BUCKET}/{prefix}"
        return open_store_at(url, server.settings(), cache_folder=folder / cache)

    def read(key: str) -> bytes:
        with client.get_object(BUCKET, f"{prefix}/{key}") as response:
            return bytes(response.read())

    def damage(key: str, data: bytes | None) -> None:
        if data is None:
            client.remove_object(BUCKET, f"{prefix}/{key}")
        else:
            client.put_object(BUCKET, f"{prefix}/{key}", io.BytesIO(data), len(data))

    def names(below: str) -> list[str]:
        found = client.list_objects(BUCKET, f"{prefix}/{below}/", recursive=True)
        return [str(item.object_name).rpartition("/")[2] for item in found]

    return Kept(reopened("cache"), lambda: reopened("other-cache"), read, damage, names)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    if request.param == "folder":
        return kept_in_folder(tmp_path)
    return kept_in_s3(request.getfixturevalue("s3"), tmp_path)


@pytest.fixture(params=["memory", "folder", "mirrored", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "mirrored":
        return MirroredStore(FolderStore(tmp_path / "store"), [FolderStore(tmp_path / "mirror")])
    if request.param == "folder":
        return kept_in_folder(tmp_path).store
    return kept_in_s3(request.getfixturevalue("s3"), tmp_path).store


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


def shard_of(store: ArtifactStore, ref: ArtifactRef, name: str) -> Shard:
    return store.manifest(ref).shard(f"rows/{name}.bin")


def test_what_was_committed_is_read_back(store: ArtifactStore) -> None:
    store.prepare()
    ref = write(store, a=b"one", b=b"three")

    manifest = store.manifest(ref)

    assert read(store, ref) == {"rows/a.bin": b"one", "rows/b.bin": b"three"}
    assert manifest.ref == ref
    assert manifest.count("rows") == 8
    assert manifest.shards[0].md5 == MD5_OF_ONE
    assert store.local_path(manifest.shards[1]).read_bytes() == b"three"
    assert store.holds(ref)
    assert store.damages(manifest, every_byte=True) == []


def test_the_same_content_has_the_same_reference(store: ArtifactStore) -> None:
    first = write(store, a=b"one", b=b"two")

    second = write(store, b=b"two", a=b"one")

    assert first == second
    store.verify(first, every_byte=True)


def test_all_stores_give_the_same_reference(store: ArtifactStore) -> None:
    assert write(store, a=b"x", empty=b"") == write(MemoryStore(), a=b"x", empty=b"")


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

    with pytest.raises(MissingError, match="does not hold artifact"):
        store.manifest(expected)
    assert not store.holds(expected)


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


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", "a//b", "a\\b", "a" * 300])
def test_a_path_that_leaves_the_artifact_or_is_no_files_is_refused(
    store: ArtifactStore, path: str
) -> None:
    with (
        store.draft(KIND) as draft,
        pytest.raises(DataError, match=r"must be relative|at most 255"),
        draft.shard(path),
    ):
        pass


def test_an_artifact_without_shards_is_refused(store: ArtifactStore) -> None:
    with store.draft(KIND) as draft, pytest.raises(DataError, match="without shards"):
        draft.commit()


def derive(
    store: ArtifactStore, *parents: ArtifactRef, consents: tuple[str, ...] = ()
) -> ArtifactRef:
    with store.draft(ArtifactKind.LANGUAGE_MODEL) as draft:
        with draft.shard("weights") as shard:
            shard.path.write_text(f"of {len(parents)}")
        return draft.commit(parents=parents, consents=consents)


def test_consents_are_carried_from_parents_to_whatever_is_made_of_them(
    store: ArtifactStore,
) -> None:
    written = write(store, a=b"one")
    heard = [derive(store, consents=(tag,)) for tag in ("research", "any use")]

    model = derive(store, derive(store, *heard, written))

    assert store.manifest(derive(store, written)).consents == ()
    assert store.manifest(model).consents == ("any use", "research")
    with pytest.raises(MissingError, match="does not hold artifact eeee"):
        derive(store, ArtifactRef(KIND, "e" * 64))


def test_a_reference_of_another_kind_is_refused(store: ArtifactStore) -> None:
    ref = write(store, a=b"one")

    with pytest.raises(DataError, match="but it holds text_corpus"):
        store.manifest(ArtifactRef(ArtifactKind.TASKS, ref.id))


def test_a_copy_from_another_store_is_whole_and_the_same(store: ArtifactStore) -> None:
    source = MemoryStore()
    manifest = source.manifest(write(source, a=b"one", b=b"two"))

    fetched = store.admit(manifest, source.local_path, every_byte=False)
    again = store.admit(manifest, source.local_path, every_byte=True)

    assert {damage.path for damage in fetched} - {TREE} == {"rows/a.bin", "rows/b.bin"}
    assert list(again) == []
    assert store.manifest(manifest.ref) == manifest
    store.verify(manifest.ref, every_byte=True)


def test_what_is_stored_is_listed_and_removed_when_it_is_old(store: ArtifactStore) -> None:
    ref = write(store, a=b"one")
    keys = {object_key(MD5_OF_ONE), manifest_key(ref.id)}

    assert keys <= {item.key for item in store.objects()}
    assert not store.remove(object_key(MD5_OF_ONE), grace_s=3600)
    assert store.remove(object_key(MD5_OF_ONE), grace_s=0)
    assert not store.remove(object_key(MD5_OF_ONE), grace_s=0)

    with pytest.raises(MissingError, match=r"'rows/a\.bin' is not in the store"):
        store.verify(ref, every_byte=False)


def test_the_layout_is_that_of_a_dvc_remote(kept: Kept) -> None:
    ref = write(kept.store, a=b"one")

    tree = tree_md5(kept.store.manifest(ref).shards)
    assert kept.read(object_key(MD5_OF_ONE)) == b"one"
    assert json.loads(kept.read(object_key(tree))) == [{"md5": MD5_OF_ONE, "relpath": "rows/a.bin"}]
    assert kept.read(manifest_key(ref.id)) == kept.store.manifest(ref).to_json()
    assert kept.names("staging") == []


@pytest.mark.parametrize(
    ("data", "fault"),
    [(b"TWO", "has sha256"), (b"longer", "has 6 bytes, expected 3"), (b"twp", "has sha256")],
    ids=["other", "longer", "flipped-bit"],
)
def test_a_damaged_shard_is_named_by_the_next_read_and_by_a_check(
    kept: Kept, data: bytes, fault: str
) -> None:
    ref = write(kept.store, a=b"one", b=b"two")
    shard = shard_of(kept.store, ref, "b")
    kept.damage(object_key(shard.md5), data)
    store = kept.reopen()

    with pytest.raises(DataError, match=rf"'rows/b\.bin' is corrupt: .* {fault}"):
        store.verify(ref, every_byte=False)
    with pytest.raises(DataError, match=r"'rows/b\.bin' is corrupt"):
        store.local_path(shard)
    [damage] = store.damages(store.manifest(ref), every_byte=True)
    assert (damage.path, damage.is_missing) == ("rows/b.bin", False)
    assert shard.md5[2:] in damage.address


def test_a_lost_shard_is_named(kept: Kept) -> None:
    ref = write(kept.store, a=b"one")
    kept.damage(object_key(MD5_OF_ONE), None)
    store = kept.reopen()

    with pytest.raises(MissingError, match=r"'rows/a\.bin' is not in the store"):
        store.verify(ref, every_byte=False)
    with pytest.raises(MissingError, match=r"'rows/a\.bin' is not in the store"):
        store.local_path(store.manifest(ref).shards[0])


@pytest.mark.parametrize("data", [None, b"[]"], ids=["lost", "damaged"])
def test_a_tree_that_dvc_could_not_use_is_found(kept: Kept, data: bytes | None) -> None:
    ref = write(kept.store, a=b"one")
    kept.damage(object_key(tree_md5(kept.store.manifest(ref).shards)), data)

    with pytest.raises((DataError, MissingError), match=r"'\.dir'"):
        kept.store.verify(ref, every_byte=False)


def test_a_manifest_with_other_bytes_is_refused(kept: Kept) -> None:
    ref = write(kept.store, a=b"one")
    kept.damage(manifest_key(ref.id), b"{}")

    with pytest.raises(DataError, match=r"the manifest .* is corrupt"):
        kept.reopen().manifest(ref)


def test_writing_the_content_again_heals_all_damage(kept: Kept) -> None:
    ref = write(kept.store, a=b"one", b=b"two")
    manifest = kept.store.manifest(ref)
    kept.damage(object_key(shard_of(kept.store, ref, "b").md5), b"TWO")
    kept.damage(object_key(tree_md5(manifest.shards)), b"[]")
    kept.damage(manifest_key(ref.id), b"{}")

    write(kept.store, a=b"one", b=b"two")

    kept.reopen().verify(ref, every_byte=True)
    assert kept.names("quarantine")


def test_a_copy_heals_what_is_damaged(kept: Kept) -> None:
    source = MemoryStore()
    manifest = source.manifest(write(source, a=b"one", b=b"two"))
    write(kept.store, a=b"one", b=b"two")
    kept.damage(object_key(MD5_OF_ONE), b"onf")

    healed = kept.store.admit(manifest, source.local_path, every_byte=True)

    assert [damage.path for damage in healed] == ["rows/a.bin"]
    kept.reopen().verify(manifest.ref, every_byte=True)


def test_sweeping_removes_what_the_dead_left_and_spares_the_living(kept: Kept) -> None:
    store = kept.store
    with store.draft(KIND) as draft:
        with draft.shard("a") as shard:
            shard.path.write_bytes(b"1")
            staging = shard.path.parent.parent.parent
        (staging / "left-behind").mkdir()
        too_young = store.sweep(grace_s=3600)
        removed = store.sweep(grace_s=0)
        ref = draft.commit()

    assert (too_young, removed) == (0, 1)
    store.verify(ref, every_byte=True)


def test_objects_of_a_folder_are_read_only(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)

    write(store, a=b"one")

    assert stat.S_IMODE(store.object_path(MD5_OF_ONE).stat().st_mode) == 0o444
    assert store.url == str(tmp_path)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        FolderStore(tmp_path / "file").prepare()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_says_so_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)

    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        FolderStore(tmp_path / "store").prepare()


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
