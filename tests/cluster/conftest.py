"""A real cluster, named by KUBECONFIG, whose pods run this checkout.

Its node must be this machine. INTERLOOM_TEST_IMAGE names an image with an empty root, and
INTERLOOM_TEST_HOST_ADDRESS the address at which pods reach this machine.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from interloom.adapters.cluster.api import ClusterApi
from interloom.config.environment import environment
from interloom.testing.local_cluster import HOST, Site, kubectl
from interloom.testing.postgres_server import postgres_server

NO_CLUSTER = "KUBECONFIG" not in environment()


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


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """A PostgreSQL server that pods can reach, with a migrated catalog."""
    from interloom.adapters.sql_catalog import migrate

    with postgres_server(address=HOST) as server:
        migrate(server.url)
        yield server.url
