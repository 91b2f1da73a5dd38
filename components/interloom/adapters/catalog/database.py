"""One relational database: its engine, its transactions, its clock and its schema.

One short transaction a call. On SQLite a transaction that writes begins as ``IMMEDIATE``, so that
it waits for its turn at the start and never fails half-way.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, RowMapping, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from interloom.adapters.catalog import tables as t
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, TransientError

NAMESPACE = "interloom"
_BUSY_S = 30.0  # how long a writer waits for another on SQLite
_FILE_CANNOT_BE_USED = ("unable to open database file", "readonly database")
_ACCESS_DENIED = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",  # a role or a database
)
_MIGRATIONS = Path(__file__).parent.parent / "migrations"


class Database:
    """A database that holds a catalog; safe for any number of threads and processes."""

    def __init__(self, url: str, *, tells_events: bool = False) -> None:
        self.engine = _open_engine(url)
        self.tells_events = tells_events

    def ready(self) -> None:
        """Check the schema, without importing Alembic if it is right.

        A SQLite file is migrated if need be; a PostgreSQL schema is only checked.

        Raises:
            ConfigError: The schema is of another version.
            TransientError: The database does not answer.
        """
        with self.transaction(writes=False) as connection:
            version = schema_version(connection)
        if version == t.HEAD:
            return
        if version is not None and version not in t.REVISIONS:
            raise ConfigError(_from_the_future(version))
        if self.engine.dialect.name == "sqlite":
            self.migrate()
            return
        shown = self.engine.url.render_as_string(hide_password=True)
        raise ConfigError(
            f"the catalog at {shown} has schema {version}, this version needs {t.HEAD}; "
            "migrate it first: python -m interloom.adapters.migrations"
        )

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema up or down to a revision: ``head``, ``base`` or one of ours.

        Raises:
            ConfigError: The database was made by a newer version.
        """
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self.transaction() as connection:
            config.attributes["connection"] = connection
            try:
                if _is_below(revision, schema_version(connection)):
                    command.downgrade(config, revision)
                else:
                    command.upgrade(config, revision)
            except CommandError as error:
                raise ConfigError(_from_the_future(schema_version(connection))) from error

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[Connection]:
        """One transaction; what the database says is told in our words."""
        try:
            with (
                self.engine.connect().execution_options(interloom_writes=writes) as connection,
                connection.begin(),
            ):
                connection.info["tells_events"] = self.tells_events
                yield connection
        except OperationalError as error:
            raise self._explained(error) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise TransientError(f"the catalog was cut off: {error.orig}") from error
            raise

    def _explained(self, error: OperationalError) -> ConfigError | TransientError:
        """What a database that cannot be used is told as: only what may heal is tried again."""
        shown = self.engine.url.render_as_string(hide_password=True)
        said = str(error.orig)
        if any(words in said for words in _FILE_CANNOT_BE_USED):
            return ConfigError(
                f"the catalog {shown} cannot be opened or written: {said}; check that its file and "
                "folder can be written, or set INTERLOOM_DATABASE_URL"
            )
        if any(words in said for words in _ACCESS_DENIED):
            return ConfigError(
                f"the catalog {shown} refuses us: {said.strip()}; check user, password and "
                "database in INTERLOOM_DATABASE_URL"
            )
        return TransientError(f"the catalog {shown} does not answer: {said}")


class Room:
    """A part of the catalog: queries over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database


def _is_below(revision: str, version: str | None) -> bool:
    """Whether a revision is older than the one a database is at."""
    if revision == "base":
        return True
    known = {held: index for index, held in enumerate(t.REVISIONS)}
    return revision in known and version in known and known[revision] < known[version]


def _from_the_future(version: str | None) -> str:
    return (
        f"the catalog's schema {version} is unknown to this version, which has {t.HEAD}; "
        "install the version that made it"
    )


def _open_engine(url: str) -> Engine:
    """An engine with our settings of SQLite.

    Raises:
        ConfigError: The URL cannot be read, or its driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
        is_file = parsed.get_backend_name() == "sqlite"
        waits = {"timeout": _BUSY_S} if is_file and "timeout" not in parsed.query else {}
        engine = sa.create_engine(parsed, pool_pre_ping=not is_file, connect_args=waits)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"INTERLOOM_DATABASE_URL cannot be read: {error}") from error
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the database driver {error.name!r} is not installed; "
            "pip install 'interloom[postgres]', and begin the URL with postgresql+psycopg://"
        ) from error
    if engine.dialect.name == "sqlite":
        if not str(parsed.database).startswith("file:"):  # a URI of SQLite's own names a file
            _make_folder(parsed.database)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_folder(database: str | None) -> None:
    """Make the folder of a SQLite file.

    Raises:
        ConfigError: It cannot be made.
    """
    if not database or database == ":memory:":
        raise ConfigError("the catalog needs a SQLite file: processes share it")
    try:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the catalog's folder {Path(database).parent} cannot be made: {error.strerror}; "
            "set INTERLOOM_HOME to a folder that can be written"
        ) from error


def _set_up_sqlite(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # SQLAlchemy's begin is ours to write
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("interloom_writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def schema_version(connection: Connection) -> str | None:
    """The migration that the schema is at; None for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def now_text() -> str:
    """Now, as times are written in the tables."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def iso(seconds: float) -> str:
    """Seconds since 1970, as times are written in the tables."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def database_now_s(connection: Connection) -> float:
    """The database's clock, which all runners share; on SQLite that of this machine."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(
        connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    )


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows that break no unique constraint; leave those that are there."""
    if rows:
        connection.execute(_insert_or_leave(connection, table), list(rows))


def insert_one(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row; False if it is there already."""
    insert = _insert_or_leave(connection, table).values(row)
    return connection.execute(insert.returning(sa.literal(1))).first() is not None


def _insert_or_leave(
    connection: Connection, table: Table
) -> sqlite.dml.Insert | postgresql.dml.Insert:
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    return insert(table).on_conflict_do_nothing()


def ref_of(row: RowMapping) -> ArtifactRef:
    """The artifact of a row with its kind and id."""
    return ArtifactRef(ArtifactKind(row["kind"]), row["id"])
