"""A PostgreSQL server for the tests of this folder, if its programs are installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

INITDB = ("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")


def postgres_program(name: str) -> str | None:
    found = shutil.which(name)
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(packaged[-1]) if packaged else None)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty server that listens on a socket only."""
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
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run(
            command, check=True, user=user, capture_output=True, timeout=60, cwd=folder, env={}
        )

    run(initdb, "-D", str(data), "-U", "interloom", *INITDB)
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    log = folder / "log"
    run(pg_ctl, "-D", str(data), "-w", "-l", str(log), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://interloom@/postgres?host={folder}"
    finally:
        run(pg_ctl, "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
