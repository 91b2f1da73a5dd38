"""The catalog over SQLAlchemy: SQLite on one machine, PostgreSQL on a cluster."""

from interloom.adapters.catalog.database import Database
from interloom.adapters.catalog.datasets import Datasets
from interloom.adapters.catalog.governance import GovernanceRoom
from interloom.adapters.catalog.graph import Graph
from interloom.adapters.catalog.leases import Leases
from interloom.adapters.catalog.lineage import Lineage
from interloom.adapters.catalog.outbox import OutboxRoom
from interloom.adapters.catalog.publishing import Publishing
from interloom.adapters.catalog.runs import Runs


class SqlCatalog(Leases, Runs, Publishing, Datasets, Lineage, Graph, GovernanceRoom, OutboxRoom):
    """A ``Catalog`` in a relational database; safe for any number of threads and processes."""

    @classmethod
    def connect(cls, url: str, *, tells_events: bool = False) -> "SqlCatalog":
        """Open the catalog at a SQLAlchemy URL.

        A SQLite file is made and migrated if need be; a PostgreSQL schema is only checked.

        Args:
            url: Where it is.
            tells_events: Whether events of runs are put into the outbox, in the transaction that
                makes them.

        Raises:
            ConfigError: The URL or the file cannot be used, or the schema is of another version.
            TransientError: The database does not answer.
        """
        database = Database(url, tells_events=tells_events)
        try:
            database.ready()
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()


def migrate(url: str, revision: str = "head") -> None:
    """Bring the catalog at ``url`` to a revision: what PostgreSQL needs before its first use."""
    database = Database(url)
    try:
        database.migrate(revision)
    finally:
        database.close()
