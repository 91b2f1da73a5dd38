"""A real cluster, named by KUBECONFIG, whose pods run this checkout.

Its node must be this machine. INTERLOOM_TEST_IMAGE names an image with an empty root, and
INTERLOOM_TEST_HOST_ADDRESS the address at which pods reach this machine.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from interloom.adapters.cluster.api import ClusterApi
from interloom.config.environment import environment
from interloom.testing.local_cluster import HOST, Site, kubectl

NO_CLUSTER = "KUBECONFIG" not in environment()
PASSWORD = "hidden-catalog-password"  # noqa: S105 - of a server of the test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a cluster."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.skipif(NO_CLUSTER, reason="KUBECONFIG names no cluster"))


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A namespace of its own, removed in the end."""
    namespace = f"interloom-test-{uuid4().hex[:6]}"
    kubectl("create", "namespace", namespace)
    folder = Path(tempfile.mkdtemp(prefix="interloom-site-"))
    folder.chmod(0o777)
    try:
        yield Site(namespace, folder, ClusterApi(namespace))
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> Path:
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not packaged:
        pytest.skip("the PostgreSQL programs are not installed (Debian: postgresql)")
    return packaged[-1]


def _as_postgres(folder: Path) -> str | None:
    """Whom the server runs as, and give it its folder: it refuses to run as root."""
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    folder.chmod(0o755)
    return user


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """A PostgreSQL server that pods can reach, with a migrated catalog."""
    from interloom.adapters.sql_catalog import migrate

    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="interloom-pg-"))
    user = _as_postgres(folder)
    data, password = folder / "data", folder / "password"
    password.write_text(f"{PASSWORD}\n")

    def run(*command: str) -> None:
        subprocess.run(
            command, check=True, user=user, capture_output=True, timeout=60, cwd=folder, env={}
        )

    words = ("--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "--encoding=UTF8")
    run(str(initdb), "-D", str(data), "-U", "interloom", *words, "--locale=C")
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.0.0.0/8 scram-sha-256\n")
    options = f"-c listen_addresses={HOST} -c port={port} -c fsync=off"
    options += f" -c unix_socket_directories={folder}"
    run(str(pg_ctl), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    url = f"postgresql+psycopg://interloom:{PASSWORD}@{HOST}:{port}/postgres"
    try:
        migrate(url)
        yield url
    finally:
        run(str(pg_ctl), "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
