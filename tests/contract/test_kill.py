"""Kill -9 at any point leaves all or nothing, and the next runner takes over at once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.local_launcher import LocalLauncher
from interloom.adapters.sql_catalog import SqlCatalog
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import MissingError
from interloom.ports.catalog import RunState
from interloom.stages.contract import (
    StageCall,
    StageContract,
    execute_stage,
    lookup,
    stage_key,
)
from interloom.stages.sweeping import sweep
from interloom.testing.launcher import InlineLauncher
from interloom.testing.probe import PROGRAM, REGISTRY, ProbeRequest

pytestmark = pytest.mark.slow

RUNNER = Path(__file__).parent / "dying_runner.py"
CALL = StageCall(stage="probe", request=ProbeRequest(text="hello", num_steps=3), recipe="tiny")


def run_until(home: Path, where: str, count: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUNNER), str(home), where, str(count)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def reopened(home: Path) -> StageContract:
    store = FolderStore(home / "store")
    return StageContract(
        store=store,
        catalog=SqlCatalog.connect(f"sqlite:///{home / 'catalog.sqlite'}"),
        launcher=InlineLauncher(store, registry=REGISTRY),
        work_folder=home / "work",
        lease_ttl_s=600,
        registry=REGISTRY,
    )


def assert_all_or_nothing(contract: StageContract, key: str) -> None:
    """Either no query shows anything of the stage, or all do and its bytes are whole."""
    catalog = contract.catalog
    hit = catalog.find(key)
    if hit is None:
        assert catalog.datasets() == []
        assert all(run.state is not RunState.COMPLETE for run in catalog.runs(limit=1000))
        return
    assert lookup(contract, key) == hit
    assert catalog.run(hit.run_id).state is RunState.COMPLETE
    assert catalog.dataset("tiny/probe.corpus").ref == hit.outputs["corpus"]
    assert len(catalog.metrics(hit.run_id)) == 1
    assert catalog.producer(hit.outputs["corpus"]) == hit.run_id


def finish(home: Path) -> ArtifactRef:
    """Run after a kill, check, and sweep; returns the output."""
    contract = reopened(home)
    key = stage_key(contract, CALL)
    assert_all_or_nothing(contract, key)
    outcome = execute_stage(contract, CALL)
    assert_all_or_nothing(contract, key)
    contract.store.verify(outcome.result.outputs()["corpus"], every_byte=True)
    sweep(contract, grace_s=0)
    assert list((home / "store" / "staging").iterdir()) == []
    assert not (home / "work").exists() or list((home / "work").iterdir()) == []
    contract.catalog.close()
    return outcome.result.outputs()["corpus"]


def test_a_runner_killed_at_any_statement_leaves_all_or_nothing(tmp_path: Path) -> None:
    whole = run_until(tmp_path / "whole", "statement", 10_000)
    assert whole.returncode == 0, whole.stderr
    num_statements = int(whole.stdout)
    expected = finish(tmp_path / "whole")

    points = range(num_statements - 28, num_statements + 1, 3)
    for count in points:
        home = tmp_path / str(count)
        killed = run_until(home, "statement", count)

        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert finish(home) == expected


@pytest.mark.parametrize("count", [1, 2, 3], ids=["shard", "tree", "manifest"])
def test_a_runner_killed_at_any_object_leaves_nothing_visible(tmp_path: Path, count: int) -> None:
    killed = run_until(tmp_path, "shard", count)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    has_manifest = any((tmp_path / "store").glob("manifests/*.json"))
    assert has_manifest == (count == 3)
    finish(tmp_path)


def test_a_killed_runner_takes_its_stage_along_and_the_next_goes_on(tmp_path: Path) -> None:
    request = ProbeRequest(text="long", num_steps=40, step_s=0.05)
    program = (
        "from pathlib import Path;"
        "from dataclasses import replace;"
        f"import sys; sys.path.insert(0, {str(RUNNER.parent)!r});"
        "import dying_runner as r;"
        "from interloom.adapters.local_launcher import LocalLauncher;"
        "from interloom.testing.probe import PROGRAM, ProbeRequest;"
        f"home = Path({str(tmp_path)!r});"
        "store = r.FolderStore(home / 'store');"
        "catalog = r.SqlCatalog.connect('sqlite:///' + str(home / 'catalog.sqlite'));"
        "launcher = LocalLauncher(store_root=home / 'store', program=PROGRAM);"
        "contract = replace(r.contract_in(home, store, catalog), launcher=launcher);"
        f"request = ProbeRequest.model_validate_json({request.model_dump_json()!r});"
        "r.execute_stage(contract, r.StageCall(stage='probe', request=request, recipe='tiny'))"
    )
    runner = subprocess.Popen([sys.executable, "-c", program])
    deadline_s = time.monotonic() + 60
    while not (steps := list(tmp_path.glob("work/*/steps"))) or len(steps[0].read_text()) < 5:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)

    runner.kill()
    runner.wait()
    before = len(steps[0].read_text())

    contract = reopened(tmp_path)
    launcher = LocalLauncher(store_root=tmp_path / "store", program=PROGRAM)
    calls = StageCall(stage="probe", request=request, recipe="tiny")
    key = stage_key(contract, calls)
    assert contract.catalog.find(key) is None
    outcome = execute_stage(
        StageContract(
            store=contract.store,
            catalog=contract.catalog,
            launcher=launcher,
            work_folder=contract.work_folder,
            lease_ttl_s=600,
            registry=REGISTRY,
        ),
        calls,
    )

    assert 5 <= before < 40  # it went on from where the other was killed: see ``probe``
    assert outcome.result.metrics[0].value == 4
    states = {run.state for run in contract.catalog.runs(limit=1000)} | {
        contract.catalog.run(outcome.run_id).state
    }
    assert states == {RunState.COMPLETE}
    contract.catalog.close()


def test_a_killed_draft_leaves_nothing_that_can_be_read(tmp_path: Path) -> None:
    run_until(tmp_path, "shard", 1)

    store = FolderStore(tmp_path / "store")

    assert len(list((tmp_path / "store" / "staging").iterdir())) == 1
    assert store.sweep(grace_s=0) == 1
    with pytest.raises(MissingError, match="does not hold"):
        store.manifest(ArtifactRef(ArtifactKind.TEXT_CORPUS, "0" * 64))
