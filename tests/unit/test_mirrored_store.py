"""A store with mirrors heals what it has lost, and says so; what has a copy is not made anew."""

from pathlib import Path

import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.mirrored_store import MirroredStore
from interloom.bootstrap import open_store
from interloom.config.settings import Settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Shard
from interloom.core.errors import DataError, MissingError


def publish(store: FolderStore) -> ArtifactRef:
    with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        for name in ("a", "b"):
            with draft.shard(name) as shard:
                shard.path.write_text(f"text of {name}")
        return draft.commit()


@pytest.fixture
def inner(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "inner")


@pytest.fixture
def mirror(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "mirror")


@pytest.fixture
def ref(inner: FolderStore, mirror: FolderStore) -> ArtifactRef:
    publish(mirror)
    return publish(inner)


def damage(store: FolderStore, ref: ArtifactRef) -> Shard:
    shard = store.manifest(ref).shards[0]
    path = store.object_path(shard.md5)
    path.chmod(0o644)
    path.write_bytes(b"text of c")
    return shard


def test_a_check_heals_what_is_damaged_and_says_so(
    inner: FolderStore, mirror: FolderStore, ref: ArtifactRef, caplog: pytest.LogCaptureFixture
) -> None:
    damage(inner, ref)

    MirroredStore(inner, [mirror]).verify(ref, every_byte=True)

    inner.verify(ref, every_byte=True)
    assert "shard 'a' is corrupt" in caplog.text
    assert "healed from a mirror" in caplog.text


def test_a_parent_that_only_a_mirror_holds_is_brought_into_the_store(
    inner: FolderStore, mirror: FolderStore
) -> None:
    with mirror.draft(ArtifactKind.SPEECH_CORPUS) as draft:
        with draft.shard("utterances") as shard:
            shard.path.write_text("heard")
        parent = draft.commit(consents=("research",))
    store = MirroredStore(inner, [mirror])

    with store.draft(ArtifactKind.LANGUAGE_MODEL) as draft:
        with draft.shard("weights") as shard:
            shard.path.write_text("learnt")
        made = draft.commit(parents=(parent,))

    assert inner.manifest(made).consents == ("research",)
    inner.verify(parent, every_byte=True)


def test_a_read_takes_the_mirrors_bytes_and_says_so(
    inner: FolderStore, mirror: FolderStore, ref: ArtifactRef, caplog: pytest.LogCaptureFixture
) -> None:
    shard = damage(inner, ref)
    store = MirroredStore(FolderStore(inner.root), [mirror])

    with store.open_shard(shard) as file:
        assert file.read() == b"text of a"

    assert "read from a mirror instead" in caplog.text


def test_a_lost_artifact_is_healed_whole(
    inner: FolderStore, mirror: FolderStore, ref: ArtifactRef
) -> None:
    for item in list(inner.objects()):
        inner.remove(item.key, grace_s=0)
    store = MirroredStore(inner, [mirror])

    assert store.manifest(ref) == mirror.manifest(ref)
    store.verify(ref, every_byte=True)

    assert inner.holds(ref)


def test_what_no_mirror_has_is_an_error_as_ever(
    inner: FolderStore, mirror: FolderStore, tmp_path: Path, ref: ArtifactRef
) -> None:
    shard = damage(inner, ref)
    damage(mirror, ref)
    store = MirroredStore(FolderStore(inner.root), [mirror, FolderStore(tmp_path / "empty")])

    with pytest.raises(DataError, match="shard 'a' is corrupt"):
        store.verify(ref, every_byte=True)
    with pytest.raises(DataError, match="shard 'a' is corrupt"):
        store.local_path(shard)
    with pytest.raises(MissingError, match="does not hold artifact"):
        store.manifest(ArtifactRef(ArtifactKind.TEXT_CORPUS, "0" * 64))


def test_mirrors_come_from_the_settings(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, store_mirrors=(str(tmp_path / "mirror"),))

    assert isinstance(open_store(settings), MirroredStore)
    assert isinstance(open_store(settings, str(tmp_path / "other")), FolderStore)
    assert isinstance(open_store(Settings(home=tmp_path)), FolderStore)
