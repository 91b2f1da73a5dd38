"""``takedown``, ``verify``, ``reconcile``, ``card`` and ``lineage`` on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from interloom.bootstrap import connect
from interloom.config.settings import Settings
from interloom.core.ids import new_run_id
from interloom.ports.catalog import Publication, RunStart, RunState, Usage
from interloom.ports.gate import CheckResult
from interloom.stages.leasing import held_run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def texts(command: Command, tmp_path: Path) -> Path:
    """Two rows under two licences, taken in as ``mine``."""
    path = tmp_path / "mine.jsonl"
    rows = [
        {"id": "a", "text": "the cat sat on the mat.", "licence": "MIT"},
        {"id": "b", "text": "the dog sat on the cat.", "licence": "CC-BY-NC-4.0"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command("ingest", "text", path.name, "--name", "mine")[0] == 0
    return path


def test_a_takedown_is_shown_first_then_done_then_obeyed_then_lifted(
    command: Command, texts: Path, tmp_path: Path
) -> None:
    what = "licence:CC-BY-NC-4.0"

    dry = command("takedown", what, "--dry-run", "--report", "report.json")
    assert dry[0] == 0
    assert f"{what}: 1 rows in 1 shards" in dry[1]
    assert "version mine@1" in dry[1]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["shards"][0]["num_rows"] == 1
    assert "Nothing is blocked." in command("takedown", "--list")[1]

    done = command("takedown", what, "--reason", "not ours", "--who", "legal")
    assert "later runs leave its rows out" in done[1]
    listed = command("takedown", "--list")[1]
    assert "legal" in listed
    assert "not ours" in listed
    again = command("ingest", "text", texts.name, "--name", "mine")
    assert "mine@2: 1 rows taken, 1 refused" in again[1]
    assert f"{what} was taken down" in again[2]

    assert "off the block list" in command("takedown", what, "--lift")[1]
    assert "was not blocked" in command("takedown", what, "--lift")[1]


def test_reconcile_names_what_is_not_whole(command: Command, texts: Path, tmp_path: Path) -> None:
    assert command("reconcile", "--paranoid")[0] == 0
    shards = [path for path in (tmp_path / "home" / "store" / "files").rglob("*") if path.is_file()]
    largest = max(shards, key=lambda path: path.stat().st_size)
    largest.chmod(0o644)
    largest.write_bytes(b"x" * largest.stat().st_size)

    code, out, _ = command("reconcile", "--paranoid")

    assert code == 65
    assert "text_corpus" in out
    assert "(mine@1)" in out
    assert "no stage made it: take it in again" in out
    assert "1 published artifacts are not whole." in out
    assert texts.is_file()


def test_a_corpus_has_a_card_and_lineage_by_row(command: Command, texts: Path) -> None:
    card = command("card", "mine")
    assert card[1].startswith("# Data card: mine@1")
    assert "- MIT: mine" in card[1]
    lineage = command("lineage", "mine@1")
    assert "ingest_text" in lineage[1]
    assert "row 1" in command("lineage", "document:b")[1]
    assert texts.is_file()


def test_a_run_shows_the_checks_that_failed_and_what_it_cost(
    command: Command, tmp_path: Path
) -> None:
    services = connect(Settings(home=tmp_path / "home"))
    pipeline, run_ids = new_run_id(), [new_run_id(), new_run_id()]
    start = RunStart(pipeline, "pretraining", "tiny", request_json="{}")
    with held_run(services.catalog, start, ttl_s=60):
        for run_id, key in zip(run_ids, ("1" * 64, "2" * 64), strict=True):
            services.catalog.start_run(RunStart(run_id, "mix", "tiny", pipeline, key))
        overlap = CheckResult("spans", "are disjoint", success=False, observed="2 of 9")
        services.catalog.end_run(run_ids[0], RunState.FAILED, "a check failed", checks=(overlap,))
        lease = services.catalog.acquire("2" * 64, "me", ttl_s=60)
        assert lease is not None
        used = Usage(wall_s=1800.0, num_gpus=8, price=9.25)
        services.catalog.publish(lease, Publication(run_ids[1], "{}", {}, {}, (), usage=used))
    services.close()

    code, out, _ = command("runs", pipeline)

    assert code == 0
    assert "check of mix: spans: are disjoint: does not hold, 2 of 9" in out
    assert "4.00" in out
    assert "9.25 USD" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["takedown"], 64, "takedown needs WHAT"),
        (["takedown", "person:bob"], 64, "source:ID, speaker:ID, licence:ID; got 'person:bob'"),
        (["verify", "nothing"], 69, "no artifact begins with 'nothing'"),
        (["verify", "mine@1"], 69, "no stage made it"),
        (["card", "mine@7"], 69, "has no version 7"),
        (["lineage", "shard:00"], 69, "no published artifact holds a shard"),
        (["lineage", "document:zz"], 69, "no published table has a row 'zz'"),
        (["lineage", "mine@1", "--step", "3"], 64, "which reads no packed rows"),
        (["plan", "smoke", "--fresh", "mixx"], 64, "no stage 'mixx'"),
    ],
)
def test_a_mistake_is_one_line(
    command: Command, texts: Path, arguments: list[str], code: int, message: str
) -> None:
    got, out, err = command(*arguments)

    assert (got, out) == (code, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert texts.is_file()
