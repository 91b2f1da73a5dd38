"""What Interloom publishes, the real DVC pulls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interloom.adapters.dvc_export import dvc_file, export_dvc, remote_options
from interloom.adapters.folder_store import FolderStore
from interloom.config.s3 import S3Settings
from interloom.core.artifacts import ArtifactKind, Manifest
from interloom.core.errors import ConfigError

SHARDS = {"text/train-00000.txt": b"one", "text/heldout-00000.txt": b"two", "readme.txt": b"3"}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def published(store: FolderStore) -> Manifest:
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
    with pytest.raises(ConfigError, match="an export needs a name of up to 128 letters"):
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
def test_dvc_pulls_what_was_published_and_notices_damage(
    store: FolderStore, tmp_path: Path
) -> None:
    manifest = published(store)
    for name in ("clone", "suspicious"):
        export_dvc(
            manifest, "corpus", tmp_path / name, remote=remote_options(store.url, S3Settings())
        )

    pulled = dvc(tmp_path / "clone", "pull", "corpus.dvc")

    assert pulled.returncode == 0, pulled.stderr
    folder = tmp_path / "clone" / "corpus"
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert {path: found[path].read_bytes() for path in found} == SHARDS
    assert dvc(tmp_path / "clone", "status").stdout.strip().endswith("up to date.")

    damaged = store.object_path(manifest.shard("readme.txt").md5)
    damaged.chmod(0o644)
    damaged.write_bytes(b"longer than it was")
    assert dvc(tmp_path / "suspicious", "pull", "corpus.dvc").returncode != 0
    assert not (tmp_path / "suspicious" / "corpus" / "readme.txt").exists()


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
