"""Where the store is: URLs, credentials and certificates, refused before anything is sent."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.stores import open_store_at
from interloom.bootstrap import open_store
from interloom.config.s3 import S3Settings
from interloom.config.settings import Settings, child_environment, load_settings
from interloom.core.errors import ConfigError

KEYS = {"access_key": "known", "secret_key": "hidden"}


def s3(**changes: object) -> S3Settings:
    return S3Settings.model_validate(KEYS | changes)


def test_a_path_is_a_folder_and_a_url_of_s3_is_a_bucket(tmp_path: Path) -> None:
    folder = open_store_at(str(tmp_path / "store"), S3Settings(), cache_folder=tmp_path)
    bucket = open_store_at("s3://bucket/team/one/", s3(), cache_folder=tmp_path)
    root = open_store_at("s3://bucket", s3(), cache_folder=tmp_path)

    assert isinstance(folder, FolderStore)
    assert bucket.url == "s3://bucket/team/one"
    assert root.url == "s3://bucket"
    assert list(tmp_path.iterdir()) == []  # nothing is made before it is needed


@pytest.mark.parametrize(
    ("url", "changes", "message"),
    [
        ("ftp://there", {}, "a store is a folder or s3://bucket/prefix, got 'ftp://there'"),
        ("s3://", {}, "is named s3://bucket/prefix, without keys or options"),
        ("s3://known:hidden@bucket/x", {}, "is named s3://bucket/prefix, without keys or options"),
        ("s3://bucket/x?secret=hidden", {}, "is named s3://bucket/prefix, without keys or options"),
        ("s3://bucket/x", {"access_key": None}, "needs credentials: set INTERLOOM_S3_ACCESS_KEY"),
        ("s3://bucket/x", {"secret_key": None}, "needs credentials: set INTERLOOM_S3_ACCESS_KEY"),
        ("s3://bucket/x", {"endpoint": "server"}, "INTERLOOM_S3_ENDPOINT: expected http://host"),
        ("s3://bucket/x", {"endpoint": "http://h:0"}, "INTERLOOM_S3_ENDPOINT: expected http://"),
        ("s3://bucket/x", {"endpoint": "http://h:x"}, "INTERLOOM_S3_ENDPOINT: expected http://"),
        ("s3://bucket/x", {"endpoint": "http://h/p"}, "INTERLOOM_S3_ENDPOINT: expected http://"),
        ("s3://bucket/x", {"endpoint": "http://k:hidden@h"}, "INTERLOOM_S3_ENDPOINT: expected"),
        ("s3://bucket/x", {"ca_file": "nowhere.crt"}, "INTERLOOM_S3_CA_FILE: nowhere.crt does not"),
    ],
)
def test_what_cannot_be_reached_is_refused_and_shows_no_secret(
    tmp_path: Path, url: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        open_store_at(url, s3(**changes), cache_folder=tmp_path)

    assert message in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_file_that_holds_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing")

    with pytest.raises(ConfigError, match=r"ca\.crt holds no certificate"):
        open_store_at("s3://bucket/x", s3(ca_file=tmp_path / "ca.crt"), cache_folder=tmp_path)


def test_a_bucket_whose_name_is_none_is_refused_when_it_is_looked_for(tmp_path: Path) -> None:
    settings = s3(endpoint="http://127.0.0.1:1", patience_s=0.1)

    with pytest.raises(ConfigError, match=r"invalid bucket name B_; check INTERLOOM_STORE_ROOT"):
        open_store_at("s3://B_/x", settings, cache_folder=tmp_path).prepare()


def test_settings_of_s3_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INTERLOOM_HOME", str(tmp_path))
    monkeypatch.setenv("INTERLOOM_STORE_ROOT", "s3://bucket/x")
    monkeypatch.setenv("INTERLOOM_S3_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("INTERLOOM_S3_ACCESS_KEY", "known")
    monkeypatch.setenv("INTERLOOM_S3_SECRET_KEY", "hidden")

    settings = load_settings()

    assert settings.s3.secret_key == SecretStr("hidden")
    assert "hidden" not in repr(settings)
    assert open_store(settings).url == "s3://bucket/x"
    assert "hidden" in child_environment({}).values()  # a stage needs the store
    assert settings.store_cache_folder == tmp_path / "cache"


def test_a_setting_of_s3_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOOM_S3_PART_BYTES", "1000")

    with pytest.raises(ConfigError, match=r"INTERLOOM_S3_PART_BYTES: .*greater than or equal"):
        load_settings()


def test_a_folder_may_be_given_as_a_path(tmp_path: Path) -> None:
    settings = Settings.model_validate({"store_root": tmp_path / "s"})

    assert settings.store_url == str(tmp_path / "s")
