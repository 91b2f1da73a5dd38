"""A whole recipe whose artifacts are in S3, its catalog in SQLite or in PostgreSQL.

Executed, reused, made again and compared, pulled by the real DVC; no secret anywhere.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from interloom.adapters.sql_catalog import migrate
from interloom.testing.postgres_server import postgres_server
from interloom.testing.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, s3_server

pytestmark = pytest.mark.nightly

INTERLOOM = [sys.executable, "-c", "from interloom_flows.cli import main; main()"]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Mapping[str, str]]:
    """What names the catalog."""
    if request.param == "sqlite":
        yield {}
        return
    with postgres_server() as server:
        migrate(server.url)
        yield {"INTERLOOM_DATABASE_URL": server.url}


def run(home: Path, server: S3Server, database: Mapping[str, str], *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=home,
        env=os.environ
        | database
        | {
            "INTERLOOM_HOME": str(home),
            "INTERLOOM_STORE_ROOT": f"s3://{BUCKET}/team/one",
            "INTERLOOM_S3_ENDPOINT": server.endpoint,
            "INTERLOOM_S3_ACCESS_KEY": ACCESS_KEY,
            "INTERLOOM_S3_SECRET_KEY": SECRET_KEY,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "HOME": str(home),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_smoke_runs_on_s3_is_reused_verified_and_pulled_by_dvc(
    database: Mapping[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with s3_server(tmp_path / "weed") as server:

        def interloom(*arguments: str) -> str:
            return run(home, server, database, *INTERLOOM, *arguments)

        recipe = ("run", "smoke", "--set", "pretrain.train.gradient_accumulation=4")
        said = [interloom(*recipe)]
        assert interloom(*recipe).count(": reused") == 12
        assert "artifacts are whole" in interloom("data", "verify")
        assert "identical: " in interloom("verify", "smoke/pretrain.model")
        on_two = interloom("verify", "smoke/pretrain.model", "--ranks", "2")
        assert "within tolerance: world size 1 -> 2; " in on_two

        corpus = "smoke/ingest.text"
        clone = str(tmp_path / "clone")
        said.append(interloom("data", "export", corpus, "--to", clone))
        run(Path(clone), server, {}, str(Path(sys.executable).with_name("dvc")), "pull")

        pulled = sorted(path for path in Path(clone).rglob("*.parquet"))
        kept = {
            path.read_bytes() for path in (home / "cache" / "files").rglob("*") if path.is_file()
        }
        assert pulled
        assert all(path.read_bytes() in kept for path in pulled)
    files = [path for path in home.rglob("*") if path.is_file()]
    said += [path.read_bytes().decode(errors="replace") for path in files]
    assert not [text for text in said if SECRET_KEY in text]
    assert not (home / "store").exists()
    assert (home / "catalog.sqlite").exists() == (not database)
