"""Data that stays where it is: the real DVC finds its version, and fetches it again."""

import io
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from interloom.adapters.dvc_export import export_dvc, remote_options
from interloom.adapters.dvc_import import plain_address, register_url
from interloom.adapters.folder_store import FolderStore
from interloom.config.s3 import S3Settings
from interloom.core.errors import ConfigError, MissingError
from interloom.testing.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server


@pytest.mark.slow
def test_a_folder_is_registered_exported_and_fetched_by_dvc(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    (source / "a.txt").write_text("one")
    store, none = FolderStore(tmp_path / "store"), S3Settings()

    ref = register_url(store, str(source), none, licence="CC0-1.0")

    manifest = store.manifest(ref)
    assert manifest.facts["url"] == str(source)
    assert manifest.facts["md5"].endswith(".dir")
    assert manifest.licences == ("CC0-1.0",)
    assert register_url(store, str(source), none, licence="CC0-1.0") == ref
    folder = tmp_path / "clone"
    export_dvc(manifest, "raw", folder, remote=remote_options(store.url, none))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dvc")), "update", "raw.dvc"],
        cwd=folder,
        env=dict(os.environ) | {"HOME": str(tmp_path), "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "raw" / "a.txt").read_text() == "one"

    (source / "a.txt").write_text("another")
    assert register_url(store, str(source), none, licence="CC0-1.0") != ref


@pytest.mark.slow
def test_an_object_in_s3_is_registered_by_its_etag(s3: S3Server, tmp_path: Path) -> None:
    store, key = FolderStore(tmp_path / "store"), f"raw/{uuid4().hex}.bin"
    put = s3.client().put_object(BUCKET, key, io.BytesIO(b"one"), 3)

    ref = register_url(store, f"s3://{BUCKET}/{key}", s3.settings(), licence="CC0-1.0")

    facts = store.manifest(ref).facts
    assert facts["etag"].strip('"') == put.etag
    assert facts["size"] == "3"
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET_KEY.encode() not in kept
    assert ACCESS_KEY.encode() not in kept


@pytest.mark.slow
def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"DVC cannot read .*nowhere"):
        register_url(
            FolderStore(tmp_path / "store"), str(tmp_path / "nowhere"), S3Settings(), licence="x"
        )


@pytest.mark.parametrize(
    "url", ["https://me:hidden@host/x", "s3://b/x?X-Amz-Signature=hidden", "https://host/x#hidden"]
)
def test_an_address_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match="holds credentials or options") as raised:
        plain_address(url)

    assert "hidden" not in str(raised.value)
