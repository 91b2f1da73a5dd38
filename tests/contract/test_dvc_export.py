"""What Interloom publishes, the real DVC pulls."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interloom.adapters.checked_store import object_key
from interloom.adapters.dvc_export import dvc_file, export_dvc, remote_options
from interloom.adapters.folder_store import FolderStore
from interloom.adapters.stores import open_store_at
from interloom.config.s3 import S3Settings
from interloom.core.artifacts import ArtifactKind, Manifest, Shard
from interloom.core.errors import ConfigError
from interloom.ports.store import ArtifactStore
from interloom.testing.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

SHARDS = {"text/train-00000.txt": b"one", "text/heldout-00000.txt": b"two", "readme.txt": b"3"}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def published(store: ArtifactStore) -> Manifest:
    with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        for path, data in SHARDS.items():
            with draft.shard(path) as shard:
                shard.path.write_bytes(data)
        return store.manifest(draft.commit(licences=["CC0-1.0"]))


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [str(Path(sys.executable).with_name("dvc")), *arguments],
        cwd=folder,
        env=dict(os.environ) | {"HOME": str(home), "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_file_names_the_tree_its_size_and_our_artifact(store: FolderStore) -> None:
    manifest = published(store)

    lines = dvc_file(manifest, "corpus").splitlines()

    assert lines[-5].endswith(".dir")
    assert lines[-4:] == ["  size: 7", "  nfiles: 3", "  hash: md5", '  path: "corpus"']
    assert f'  artifact: "text_corpus:{manifest.ref.id}"' in lines


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "two words", "a..b", "n" * 300])
def test_a_name_that_is_no_folders_is_refused(store: FolderStore, name: str) -> None:
    with pytest.raises(ConfigError, match="a name is up to 128 letters"):
        dvc_file(published(store), name)


def test_a_folder_that_cannot_be_written_is_refused(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="cannot export to"):
        export_dvc(
            published(store),
            "corpus",
            tmp_path / "file",
            remote=remote_options(store.url, S3Settings()),
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_dvc_pulls_what_was_published_and_notices_damage(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    store, s3 = opened_store(request, monkeypatch, tmp_path, kind)
    manifest = published(store)
    for name in ("clone", "suspicious"):
        remote = remote_options(store.url, s3)
        export_dvc(manifest, "corpus", tmp_path / name, remote=remote)

    pulled = dvc(tmp_path / "clone", "pull", "corpus.dvc")

    assert pulled.returncode == 0, pulled.stderr
    folder = tmp_path / "clone" / "corpus"
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert {path: found[path].read_bytes() for path in found} == SHARDS
    assert dvc(tmp_path / "clone", "status").stdout.strip().endswith("up to date.")
    exported = [path.read_text() for path in (tmp_path / "clone").glob(".dvc/config*")]
    assert exported
    assert not [text for text in exported if SECRET_KEY in text or ACCESS_KEY in text]

    damage(request, store, manifest.shard("readme.txt"))
    assert dvc(tmp_path / "suspicious", "pull", "corpus.dvc").returncode != 0
    assert not (tmp_path / "suspicious" / "corpus" / "readme.txt").exists()


def opened_store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str
) -> tuple[ArtifactStore, S3Settings]:
    if kind == "folder":
        return FolderStore(folder / "store"), S3Settings()
    server: S3Server = request.getfixturevalue("s3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    settings = server.settings()
    url = f"s3://{BUCKET}/dvc/{folder.name}"
    return open_store_at(url, settings, cache_folder=folder / "cache"), settings


def damage(request: pytest.FixtureRequest, store: ArtifactStore, shard: Shard) -> None:
    data, key = b"longer than it was", object_key(shard.md5)
    if isinstance(store, FolderStore):
        (store.root / key).chmod(0o644)
        (store.root / key).write_bytes(data)
        return
    server: S3Server = request.getfixturevalue("s3")
    prefix = store.url.removeprefix(f"s3://{BUCKET}/")
    server.client().put_object(BUCKET, f"{prefix}/{key}", io.BytesIO(data), len(data))


@pytest.mark.slow
def test_dvc_add_gives_the_tree_that_was_exported(store: FolderStore, tmp_path: Path) -> None:
    manifest = published(store)
    folder = tmp_path / "own"
    for path, data in SHARDS.items():
        (folder / "corpus" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "corpus" / path).write_bytes(data)
    export_dvc(manifest, "other", folder, remote=remote_options(store.url, S3Settings()))

    added = dvc(folder, "add", "corpus")

    assert added.returncode == 0, added.stderr
    ours = {line for line in dvc_file(manifest, "corpus").splitlines() if "path" not in line}
    theirs = set((folder / "corpus.dvc").read_text().splitlines())
    assert {line for line in theirs if "path" not in line} <= ours
