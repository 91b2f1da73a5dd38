"""A whole recipe whose artifacts are in S3: executed, reused, pulled by the real DVC, no secret."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interloom.testing.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, s3_server

pytestmark = pytest.mark.nightly

INTERLOOM = [sys.executable, "-c", "from interloom_flows.cli import main; main()"]


def run(home: Path, server: S3Server, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=home,
        env=os.environ
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
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_smoke_runs_on_s3_is_reused_and_pulled_by_dvc(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with s3_server(tmp_path / "weed") as server:
        said = [run(home, server, *INTERLOOM, "run", "smoke")]
        again = run(home, server, *INTERLOOM, "run", "smoke")
        assert again.count(": reused") == 11
        assert "artifacts are whole" in run(home, server, *INTERLOOM, "data", "verify")

        corpus = "smoke/ingest.text"
        clone = str(tmp_path / "clone")
        said.append(run(home, server, *INTERLOOM, "data", "export", corpus, "--to", clone))
        run(Path(clone), server, str(Path(sys.executable).with_name("dvc")), "pull")

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
