"""Where Prefect finds a server: the one that was named, or a quiet one of our own.

A server that migrates an empty database takes three times as long to start as one that finds a
migrated file, so the first one leaves its file as a template. Each server works on a copy of its
own: the catalog remembers runs, Prefect only shows them.
"""

import os
import selectors
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from interloom.config.environment import environment, export
from interloom.config.settings import child_environment
from interloom.core.errors import MissingError, TransientError

START_TIMEOUT_S = 240.0
_KNOCK_TIMEOUT_S = 20.0
_FOLDER_PREFIX = "server-"
# Prefect's client waits 2, 4, 8, ... seconds between its tries.
_RETRIES = "PREFECT_CLIENT_MAX_RETRIES"
_OWN_RETRIES = "1"  # a server of our own that is gone does not come back
_NAMED_RETRIES = "7"  # waits double from 2 s: over four minutes for one that is restarted


def quiet(home: Path) -> dict[str, str]:
    """Prefect's settings for both sides: nothing phones home, nothing chatters."""
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_FLOW_RUNS_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_TASK_RUNS_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }


@contextmanager
def prefect_api(home: Path, named_url: str | None = None) -> Iterator[str]:
    """A Prefect API for the time of the block; call it before anything imports Prefect.

    Args:
        home: Where our own server keeps its files.
        named_url: A server that runs; by default ``PREFECT_API_URL`` if it is set, else a server
            of our own is started.

    Yields:
        The address.

    Raises:
        MissingError: Prefect is not installed.
        TransientError: The server did not start, does not answer, or went away.
    """
    home = home.absolute()
    url = named_url or environment().get("PREFECT_API_URL")
    if url:
        (home / "prefect").mkdir(parents=True, exist_ok=True)
        export(quiet(home) | {"PREFECT_API_URL": url, _RETRIES: _NAMED_RETRIES})
        with _explained(url):
            _knock(url)
            yield url
        return
    with _own_server(home) as url:
        export(quiet(home) | {"PREFECT_API_URL": url, _RETRIES: _OWN_RETRIES})
        export({"PREFECT_LOGGING_TO_API_ENABLED": "false"})
        with _explained(url):
            yield url


def _knock(url: str) -> None:
    """Have the server answer, whatever it says.

    Raises:
        TransportError: It does not.
    """
    from httpx import get

    get(f"{url.rstrip('/')}/health", timeout=_KNOCK_TIMEOUT_S)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Say which server is away, and that nothing is lost.

    Raises:
        TransientError: A connection to it failed within the block.
    """
    from httpx import TransportError

    try:
        yield
    except (ConnectionError, TransportError) as error:
        raise TransientError(
            f"the Prefect server at {url} does not answer: {error}; what is complete is kept; "
            "next: start the server, or unset PREFECT_API_URL, and give the same command again"
        ) from error


@contextmanager
def _own_server(home: Path) -> Iterator[str]:
    """Start a server on a database of its own; both are gone after the block."""
    root = home / "prefect"
    root.mkdir(parents=True, exist_ok=True)
    template = root / f"migrated-{_prefect_version()}.db"
    _remove_leftovers(root)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=root))
    database = folder / "prefect.db"
    has_template = template.is_file()
    if has_template:
        shutil.copyfile(template, database)
    try:
        with _process(home, database, is_migrated=has_template) as process:
            port = _await_port(process, folder / "server.log")
            if not has_template:
                _save_template(database, template)
            yield f"http://127.0.0.1:{port}/api"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _process(
    home: Path, database: Path, *, is_migrated: bool
) -> Iterator["subprocess.Popen[bytes]"]:
    """The server's process; killed on leaving."""
    settings = _server_settings(home, database, is_migrated=is_migrated)
    with (
        (database.parent / "server.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "interloom_flows.prefect_server"],
            env=child_environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us: the server must outlive the flow
        ) as process,
    ):
        (database.parent / "pid").write_text(str(process.pid), encoding="ascii")
        try:
            yield process
        finally:
            process.kill()


def _server_settings(home: Path, database: Path, *, is_migrated: bool) -> Mapping[str, str]:
    return quiet(home) | {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": str(not is_migrated).lower(),
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": str(not is_migrated).lower(),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }


def _await_port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """The port, once the server answers.

    Raises:
        TransientError: It ended or said nothing in time.
    """
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_TIMEOUT_S) else b""
    if not line.startswith(b"ready "):
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise TransientError(
            f"Prefect's server did not start within {START_TIMEOUT_S:.0f} s"
            f"{': ' + said[0] if said else ''}; try again, or set PREFECT_API_URL to a running one"
        )
    return int(line.split()[1])


def _save_template(database: Path, template: Path) -> None:
    """Copy the migrated database, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=template.parent) as folder:
        draft = Path(folder) / template.name
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(draft)) as copy:
            source.backup(copy)
        draft.replace(template)


def _remove_leftovers(root: Path) -> None:
    """Remove the databases of servers that were killed."""
    for folder in root.glob(f"{_FOLDER_PREFIX}*"):
        pid_file = folder / "pid"
        with suppress(PermissionError, FileNotFoundError):
            try:
                os.kill(int(pid_file.read_text("ascii")), 0)  # asks whether it lives
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)


def _prefect_version() -> str:
    try:
        return version("prefect")
    except ModuleNotFoundError as error:
        raise MissingError(
            "Prefect is needed to run stages and is not installed; pip install 'interloom[flows]'"
        ) from error
