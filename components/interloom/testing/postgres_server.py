"""A real PostgreSQL server for tests and benchmarks, from Debian's package."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import sqlalchemy as sa

from interloom.core.errors import MissingError

_INITDB = ("--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--encoding=UTF8")
_HIDDEN = "hidden-catalog-password"
_CARELESS: Mapping[str, str] = MappingProxyType(
    {"fsync": "off"}
)  # what is lost was made for a test
_ACCOUNT = "postgres"  # of this machine: the server refuses to run as root


class PostgresServer:
    """A server in a folder of its own, on a socket; on a network only where that is asked for."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str] = _CARELESS, address: str | None = None
    ) -> None:
        """Make an empty database.

        Args:
            folder: Its data, its socket and its log.
            settings: As in ``postgresql.conf``.
            address: Of this machine, at which it listens too, for who knows the password.

        Raises:
            MissingError: The programs or the account that they need are not there.
        """
        self.folder = folder
        self._settings = {"listen_addresses": "''", "unix_socket_directories": str(folder)}
        self._settings |= settings
        self._address = address
        self._user = _account()
        if self._user is not None:
            shutil.chown(folder, self._user)
        folder.chmod(0o755)
        password = folder / "password"
        password.write_text(f"{_HIDDEN}\n")
        words = (*_INITDB, "--locale=C", f"--pwfile={password}")
        self._run("initdb", "-D", str(folder / "data"), "-U", "interloom", *words)
        if address is not None:
            with socket.create_server((address, 0)) as free:
                self._port = str(free.getsockname()[1])
            self._settings |= {"listen_addresses": address, "port": self._port}
            with (folder / "data/pg_hba.conf").open("a") as file:
                file.write("host all all all scram-sha-256\n")

    @property
    def url(self) -> str:
        """Of its first database: by its address, if it has one."""
        if self._address is None:
            return f"postgresql+psycopg://interloom@/postgres?host={self.folder}"
        return f"postgresql+psycopg://interloom:{_HIDDEN}@{self._address}:{self._port}/postgres"

    def new_database(self, name: str) -> str:
        """The URL of a new, empty database."""
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return str(sa.make_url(self.url).set(database=name).render_as_string(hide_password=False))

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = " ".join(f"-c {name}={value}" for name, value in self._settings.items())
        self._ctl("-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def kill(self) -> None:
        """End it without a word to anyone, as a crash does."""
        self._ctl("-m", "immediate", "stop")

    def _ctl(self, *words: str) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), *words)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [_program(program), *arguments],
            check=True,
            user=self._user,
            capture_output=True,
            timeout=60,
            cwd=self.folder,
            env={},
        )


@contextmanager
def postgres_server(
    parent: Path | None = None,
    settings: Mapping[str, str] = _CARELESS,
    address: str | None = None,
) -> Iterator[PostgresServer]:
    """A server that runs inside the block; its folder is removed afterwards.

    Args:
        parent: Where that folder is made; every account must be able to enter it, and a socket's
            whole path has at most 107 bytes. ``/tmp`` by default.
        settings: As in ``postgresql.conf``.
        address: Of this machine, at which it listens too.
    """
    folder = Path(tempfile.mkdtemp(prefix="interloom-pg-", dir=parent or Path("/tmp")))  # noqa: S108
    try:
        server = PostgresServer(folder, settings, address)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    """One of the server's programs, on the path or where Debian puts it."""
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(packaged[-1]) if packaged else None)
    if found is None:
        raise MissingError(f"the PostgreSQL program {name} is not installed")
    return found


def _account() -> str | None:
    """The account that the server runs as, if not our own."""
    if os.geteuid() != 0:
        return None
    if _ACCOUNT not in {entry.pw_name for entry in pwd.getpwall()}:
        raise MissingError(f"PostgreSQL does not run as root, and there is no user {_ACCOUNT!r}")
    return _ACCOUNT
