"""A Prefect server that is killed in the middle of a run and comes back two minutes later."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from interloom.bootstrap import connect
from interloom.config.environment import environment
from interloom.config.settings import Settings
from interloom.ports.catalog import RunState

pytestmark = pytest.mark.nightly

COMMAND = [sys.executable, "-c", "from interloom_flows.cli import main; main()"]
AWAY_S = 120
NULL = subprocess.DEVNULL


@contextmanager
def prefect_server(port: int, env: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A server that answers, with what an earlier one on the same files knew."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--port", str(port)]
    with subprocess.Popen(command, env=env, stdout=NULL, stderr=NULL) as process:
        try:
            deadline_s = time.monotonic() + 240
            while not answers(port):
                assert time.monotonic() < deadline_s, "the server did not start"
                time.sleep(1)
            yield process
        finally:
            process.kill()


def answers(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2).status_code == 200
    return False


def test_a_run_outlives_the_fault_of_a_prefect_server_that_is_away_for_two_minutes(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = tmp_path / "home"
    env = environment() | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "INTERLOOM_HOME": str(home),
    }
    arguments = ("run", "smoke", "--only", "train_tokenizer")
    with prefect_server(port, env):
        run = subprocess.Popen(
            [*COMMAND, *arguments], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
        )
        assert run.stderr is not None
        said = []
        for line in run.stderr:
            said.append(line)
            if line.startswith("train_tokenizer"):
                break
    time.sleep(AWAY_S)
    with prefect_server(port, env):
        _, rest = run.communicate(timeout=600)

    assert run.returncode == 0, "".join(said) + rest
    services = connect(Settings(home=home))
    (pipeline,) = services.catalog.runs()
    stages = services.catalog.runs(parent_run_id=pipeline.run_id)
    services.close()
    assert pipeline.state is RunState.COMPLETE
    assert {(stage.job, stage.state, stage.is_cache_hit) for stage in stages} == {
        ("ingest", RunState.COMPLETE, False),
        ("train_tokenizer", RunState.COMPLETE, False),
    }
