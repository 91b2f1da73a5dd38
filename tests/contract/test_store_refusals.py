"""A store in S3 that is not as it should be: a clear error before any work is lost."""

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from interloom.adapters.s3_bucket import S3Bucket
from interloom.adapters.s3_connection import S3Options
from interloom.adapters.stores import open_store_at
from interloom.config.s3 import S3Settings
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError, MissingError
from interloom.testing.s3_faults import Fault, Request, faulty_way
from interloom.testing.s3_server import BUCKET, S3Server, s3_server
from interloom.testing.small_artifacts import KIND, assert_whole, impatient, publish, store_at

pytestmark = pytest.mark.slow


def no_fault(_request: Request) -> Fault | None:
    return None


def server_error(settings: S3Settings, url: str, cache: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        open_store_at(url, settings, cache_folder=cache).prepare()
    return str(raised.value)


def test_wrong_credentials_are_named_before_any_work(s3: S3Server, tmp_path: Path) -> None:
    wrong = s3.settings(secret_key="not-the-secret")  # noqa: S106
    unknown = s3.settings(access_key="nobody")

    for settings in (wrong, unknown):
        message = server_error(settings, f"s3://{BUCKET}/x", tmp_path)

        assert "check INTERLOOM_S3_ACCESS_KEY and INTERLOOM_S3_SECRET_KEY" in message
        assert "not-the-secret" not in message


def test_a_missing_bucket_is_named_before_any_work(s3: S3Server, tmp_path: Path) -> None:
    message = server_error(s3.settings(), "s3://not-made-yet/x", tmp_path)

    assert "bucket 'not-made-yet', refuses: there is no such bucket; make it" in message


def test_plain_http_where_tls_is_asked_for_is_named(s3: S3Server, tmp_path: Path) -> None:
    settings = s3.settings(endpoint=f"https://127.0.0.1:{s3.port}")

    message = server_error(settings, f"s3://{BUCKET}/x", tmp_path)

    assert "TLS was asked for, but the server speaks plain HTTP" in message


def test_a_server_without_conditional_writes_is_refused_unless_the_catalog_may_decide(
    s3: S3Server, tmp_path: Path
) -> None:
    with _deaf_to_conditions(s3.port) as endpoint:
        settings = impatient(s3, endpoint=endpoint)
        message = server_error(settings, f"s3://{BUCKET}/{uuid4().hex}", tmp_path / "a")
        assert "does not keep conditional writes: of 8 writers" in message

        settings = impatient(s3, endpoint=endpoint, conditional_writes=False)
        store = store_at(uuid4().hex, settings, tmp_path / "b")
        assert_whole(store, publish(store, {"a.bin": b"one"}), {"a.bin": b"one"})


@contextmanager
def _deaf_to_conditions(port: int) -> Iterator[str]:
    """The server as one that does not know If-None-Match."""
    with faulty_way(port, no_fault, deaf_to=("if-none-match",)) as way:
        yield way.endpoint


def test_a_private_authority_is_trusted_when_it_is_named(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    with s3_server(tmp_path / "weed", tls=tmp_path) as server:
        url = f"s3://{BUCKET}/tls"
        store = open_store_at(
            url, server.settings(ca_file=tmp_path / "ca.crt"), cache_folder=tmp_path / "cache"
        )
        assert_whole(store, publish(store, {"a.bin": b"one"}), {"a.bin": b"one"})

        message = server_error(server.settings(), url, tmp_path / "other")
        assert "certificate is not trusted; name your authority's certificate" in message

        plain = server.settings(endpoint=server.endpoint.replace("https", "http"))
        message = server_error(plain, url, tmp_path / "other")
        assert "is it spoken to with http:// where it wants https://?" in message


def make_certificates(folder: Path) -> None:
    """An authority of our own, and a server's certificate by it."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["/usr/bin/env", "openssl", *arguments], cwd=folder, check=True, capture_output=True
        )

    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        *("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2"),
        *("-subj", "/CN=tests", "-addext", "keyUsage=critical,keyCertSign"),
    )
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
        *("-out", "server.crt", "-days", "2", "-extfile", "names"),
    )


def test_a_listing_goes_on_from_page_to_page(s3: S3Server, tmp_path: Path) -> None:
    settings = s3.settings()
    assert settings.access_key is not None
    assert settings.secret_key is not None
    bucket = S3Bucket(
        S3Options(
            endpoint=s3.endpoint,
            bucket=BUCKET,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
        )
    )
    prefix = f"pages/{uuid4().hex}/"
    keys = [f"{prefix}{index // 3}/{index}" for index in range(7)]
    for key in keys:
        bucket.write(key, b"one")

    for page_size in (1, 2, 3, 7, 1000):
        assert [item.key for item in bucket.list(prefix, page_size=page_size)] == keys


def test_a_missing_artifact_is_missing_whatever_the_way(s3: S3Server, tmp_path: Path) -> None:
    store = store_at("nothing", s3.settings(), tmp_path)

    with ThreadPoolExecutor(4) as pool:
        refs = [ArtifactRef(KIND, f"{index:064d}") for index in range(8)]
        assert list(pool.map(store.holds, refs)) == [False] * 8
    with pytest.raises(MissingError, match="does not hold artifact"):
        store.manifest(refs[0])
