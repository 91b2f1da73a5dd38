"""``doctor`` and ``dashboard``: this machine, and the pages it can show."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from interloom.config.settings import load_settings, same_environment
from interloom.core.errors import ConfigError, MissingError
from interloom_flows.cli import screen


def doctor() -> None:
    """Say what this machine has, what it lacks, and what that means."""
    from interloom_flows.examining import examine

    settings = load_settings()
    findings = examine(settings)
    shown = screen.table("", "", "what", "found", "what it means")
    marks = {"good": "ok", "could be better": "-", "needed": "MISSING"}
    for finding in findings:
        shown.add_row(marks[finding.verdict], finding.what, finding.found, finding.meaning)
    screen.out().print(shown)
    missing = [finding.what for finding in findings if finding.verdict == "needed"]
    if missing:
        raise MissingError(
            f"this machine lacks what every run needs: {', '.join(missing)}; "
            "pip install 'interloom[all]' and see the table above"
        )


def dashboard(
    port: Annotated[int, typer.Option(help="Where to serve it.", min=1, max=65535)] = 8501,
    host: Annotated[str, typer.Option(help="On which address.")] = "127.0.0.1",
) -> None:
    """Open the dashboard in a browser; Ctrl-C ends it."""
    import importlib.util

    if importlib.util.find_spec("streamlit") is None:
        raise MissingError(
            "the dashboard needs Streamlit, which is not installed; "
            "pip install 'interloom[dashboard]'"
        )
    spec = importlib.util.find_spec("interloom_dashboards")
    if spec is None or spec.origin is None:
        raise MissingError("the dashboard's pages are not installed; install Interloom again")
    _refuse_busy(host, port)
    screen.say(f"Dashboard: http://{host}:{port} (Ctrl-C ends it)")
    settings = load_settings()
    command = [
        *(sys.executable, "-m", "streamlit", "run", str(Path(spec.origin).parent / "app.py")),
        f"--server.port={port}",
        f"--server.address={host}",
        "--server.headless=true",
        "--browser.gatherUsageStats=false",
    ]
    with subprocess.Popen(
        command,
        env=same_environment({"INTERLOOM_HOME": str(settings.home.absolute())}),
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            code = process.wait()
        finally:
            process.terminate()
    if code:
        raise ConfigError(f"Streamlit ended with exit code {code}; its message is above")


def _refuse_busy(host: str, port: int) -> None:
    """Raise unless the port is free.

    Raises:
        ConfigError: It is taken, or the address is not one of this machine.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"port {port} of {host} cannot be used: {error.strerror}; "
            f"choose another: interloom dashboard --port {port % 65535 + 1}"
        ) from error
