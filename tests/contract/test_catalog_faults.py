"""Faults around the catalog, with real processes, real kills and real servers.

What must hold: one publisher a key; nothing lost and nothing half visible; every published version
passes its manifest; no edge of lineage points nowhere.
"""

import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from interloom.adapters.catalog import tables as t
from interloom.adapters.folder_store import FolderStore
from interloom.adapters.sql_catalog import SqlCatalog, migrate
from interloom.core.errors import ConfigError, LeaseLostError, TransientError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import RunStart, RunState
from interloom.ports.launcher import JobReport, StageJob
from interloom.ports.progress import Progress
from interloom.stages.contract import StageCall, StageContract, execute_stage, stage_key
from interloom.stages.leasing import held_run
from interloom.stages.sweeping import reconcile, sweep
from interloom.testing.launcher import InlineLauncher
from interloom.testing.probe import REGISTRY, ProbeRequest

pytestmark = pytest.mark.slow

SEED = 20261120
FORK = multiprocessing.get_context("fork")
BACKENDS = ["sqlite", "postgres"]
NIGHTLY = pytest.mark.nightly


@pytest.fixture
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], str]:
    """URLs of new, migrated databases by backend and name."""

    def make(backend: str, name: str) -> str:
        if backend == "sqlite":
            url = f"sqlite:///{tmp_path / name}.sqlite"
        else:
            server = request.getfixturevalue("postgres")
            url = server.new_database(f"f{new_run_id().replace('-', '')}")
        migrate(url)
        return url

    return make


class CountingLauncher(InlineLauncher):
    """Leaves a mark for every execution, where all processes see it."""

    def __init__(self, store: FolderStore, marks: Path, takes_s: float = 0.0) -> None:
        super().__init__(store, registry=REGISTRY)
        self._marks = marks
        self._takes_s = takes_s

    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        with self._marks.open("a") as file:
            file.write(".")
        time.sleep(self._takes_s)
        return super().run(job, progress=progress)


def contract_at(home: Path, url: str, *, ttl_s: float = 60, takes_s: float = 0) -> StageContract:
    store = FolderStore(home / "store")
    home.mkdir(exist_ok=True)
    return StageContract(
        store=store,
        catalog=SqlCatalog.connect(url),
        launcher=CountingLauncher(store, home / "marks", takes_s),
        work_folder=home / "work",
        lease_ttl_s=ttl_s,
        registry=REGISTRY,
    )


def call_of(text: str = "hello") -> StageCall:
    return StageCall(stage="probe", request=ProbeRequest(text=text), recipe="tiny")


def started(task: Callable[..., None], *arguments: Any) -> Any:
    process = FORK.Process(target=task, args=arguments)
    process.start()
    return process


def execute(home: Path, url: str, kill_at: int, takes_s: float = 0.0) -> None:
    """One runner; it kills itself before its ``kill_at``-th statement, if it comes to that."""
    contract = contract_at(home, url, takes_s=takes_s)
    seen = 0

    def before(*_arguments: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    assert isinstance(contract.catalog, SqlCatalog)
    event.listen(contract.catalog._database.engine, "before_cursor_execute", before)
    event.listen(contract.catalog._database.engine, "commit", before)
    execute_stage(contract, call_of())
    contract.catalog.close()
    os._exit(0)


def assert_nothing_dangles(url: str) -> None:
    """Every edge of lineage has both of its ends, whatever the database enforces."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        for table, column, target in (
            (t.run_input, t.run_input.c.artifact_id, t.artifact.c.id),
            (t.run_output, t.run_output.c.artifact_id, t.artifact.c.id),
            (t.run_output, t.run_output.c.run_id, t.run.c.id),
            (t.artifact_parent, t.artifact_parent.c.parent_id, t.artifact.c.id),
            (t.artifact, t.artifact.c.producer_run_id, t.run.c.id),
            (t.dataset_version, t.dataset_version.c.artifact_id, t.artifact.c.id),
            (t.stage_result, t.stage_result.c.run_id, t.run.c.id),
        ):
            loose = (
                sa.select(sa.func.count())
                .select_from(table)
                .where(column.not_in(sa.select(target)))
            )
            assert connection.execute(loose).scalar() == 0, column
    engine.dispose()


def assert_sound(contract: StageContract, url: str) -> None:
    """What holds at any moment, whoever died."""
    assert list(reconcile(contract, every_byte=True)) == []
    assert_nothing_dangles(url)
    key = stage_key(contract, call_of())
    hit = contract.catalog.find(key)
    complete = [run for run in published_runs(url, key) if run == "complete"]
    assert len(complete) == (hit is not None)
    if hit is None:
        assert contract.catalog.datasets() == []


def published_runs(url: str, key: str) -> list[str]:
    """The states of the runs of a key that did not reuse another's result."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        own = sa.select(t.run.c.state).where(
            t.run.c.stage_key == key, t.run.c.origin_run_id.is_(None)
        )
        states = [str(state) for state in connection.execute(own).scalars()]
    engine.dispose()
    return states


def statements_of_a_whole_run(home: Path, url: str) -> int:
    contract = contract_at(home, url)
    assert isinstance(contract.catalog, SqlCatalog)
    seen = []
    for name in ("before_cursor_execute", "commit"):
        event.listen(contract.catalog._database.engine, name, lambda *_: seen.append(1))
    execute_stage(contract, call_of())
    contract.catalog.close()
    return len(seen)


def kill_and_go_on(home: Path, url: str, kill_at: int) -> None:
    """Kill one runner, check, let the next one finish, check again."""
    killed = started(execute, home, url, kill_at)
    killed.join(600)
    assert killed.exitcode == -signal.SIGKILL
    contract = contract_at(home, url, ttl_s=600)
    assert_sound(contract, url)
    outcome = execute_stage(contract, call_of())  # at once: the dead owner is known to be dead
    assert_sound(contract, url)
    sweep(contract, grace_s=0)
    assert contract.catalog.running() == []
    assert outcome.result.outputs()["corpus"] == contract.catalog.dataset("tiny/probe.corpus").ref
    contract.catalog.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_kills", [3, pytest.param(60, marks=NIGHTLY)])
def test_a_runner_killed_before_a_random_statement_loses_nothing(
    backend: str, num_kills: int, databases: Callable[[str, str], str], tmp_path: Path
) -> None:
    sys.stdout.write(f"seed {SEED}\n")
    num_statements = statements_of_a_whole_run(tmp_path / "whole", databases(backend, "whole"))
    points = np.random.default_rng(SEED).integers(1, num_statements, num_kills)

    for index, point in enumerate(points.tolist()):
        kill_and_go_on(tmp_path / f"home{index}", databases(backend, f"kill{index}"), point)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_runners", [2, 8])
def test_of_runners_on_one_key_one_executes_without_a_fault(
    backend: str, num_runners: int, databases: Callable[[str, str], str], tmp_path: Path
) -> None:
    url = databases(backend, "race")

    runners = [started(execute, tmp_path, url, 0, 0.3) for _ in range(num_runners)]
    for runner in runners:
        runner.join(600)

    assert [runner.exitcode for runner in runners] == [0] * num_runners
    assert (tmp_path / "marks").read_text() == "."
    contract = contract_at(tmp_path, url)
    assert_sound(contract, url)
    assert published_runs(url, stage_key(contract, call_of())) == ["complete"]
    contract.catalog.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_rounds", [1, pytest.param(12, marks=NIGHTLY)])
def test_of_eight_runners_some_killed_the_others_go_on(
    backend: str, num_rounds: int, databases: Callable[[str, str], str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(SEED)
    for index in range(num_rounds):
        home, url = tmp_path / f"round{index}", databases(backend, f"round{index}")
        home.mkdir()
        kill_at = [*rng.integers(2, 40, 4).tolist(), 0, 0, 0, 0]
        runners = [started(execute, home, url, at, 0.05) for at in kill_at]
        for runner in runners:
            runner.join(600)

        assert [runner.exitcode for runner in runners[4:]] == [0] * 4
        contract = contract_at(home, url)
        assert_sound(contract, url)
        sweep(contract, grace_s=0)
        assert contract.catalog.running() == []
        assert contract.catalog.leased(ttl_s=600) == frozenset()
        contract.catalog.close()


def publish_when_thawed(home: Path, url: str) -> None:
    """A runner whose stage is done only when it has been frozen and thawed."""
    contract = contract_at(home, url, ttl_s=1.0)

    class Freezing(CountingLauncher):
        def run(self, job: StageJob, *, progress: Progress) -> JobReport:
            os.kill(os.getpid(), signal.SIGSTOP)
            return super().run(job, progress=progress)

    frozen = replace(contract, launcher=Freezing(FolderStore(home / "store"), home / "marks"))
    try:
        execute_stage(frozen, call_of())
    except LeaseLostError:
        os._exit(7)
    os._exit(0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frozen_runner_is_fenced_off_by_a_fault_of_its_heartbeat(
    backend: str, databases: Callable[[str, str], str], tmp_path: Path
) -> None:
    url = databases(backend, "frozen")
    frozen = started(publish_when_thawed, tmp_path, url)
    assert frozen.pid is not None
    os.waitid(os.P_PID, frozen.pid, os.WSTOPPED | os.WNOWAIT)
    contract = contract_at(tmp_path, url, ttl_s=1.0)

    taken_over = execute_stage(contract, call_of())
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.join(300)

    assert frozen.exitcode == 7
    assert not taken_over.is_hit
    assert_sound(contract, url)
    states = sorted(published_runs(url, taken_over.stage_key))
    assert states == ["aborted", "complete"]
    contract.catalog.close()


def take_with_a_fast_clock(url: str, key: str) -> None:
    """Try to take a lease on a machine whose clock is an hour ahead."""
    real = time.time
    time.time = lambda: real() + 3600
    catalog = SqlCatalog.connect(url)
    taken = catalog.acquire(key, "from the future", ttl_s=60)
    swept = catalog.expire_leases(ttl_s=60) + len(catalog.running())
    os._exit(0 if taken is None and swept == 0 else 1)


def test_a_clock_that_is_an_hour_off_is_no_fault_of_the_lease(
    databases: Callable[[str, str], str],
) -> None:
    url = databases("postgres", "skew")
    catalog = SqlCatalog.connect(url)
    assert catalog.acquire("1" * 64, "me", ttl_s=60) is not None

    other = started(take_with_a_fast_clock, url, "1" * 64)
    other.join(300)

    assert other.exitcode == 0
    assert catalog.lease_owner("1" * 64) == "me"
    catalog.close()


@pytest.mark.parametrize("num_restarts", [3, pytest.param(20, marks=NIGHTLY)])
def test_a_server_that_crashes_in_the_publish_transaction_is_a_fault_that_heals(
    num_restarts: int, postgres: Any, databases: Callable[[str, str], str], tmp_path: Path
) -> None:
    """The stage's work is not lost: publishing goes on when the database is back."""
    rng = np.random.default_rng(SEED)
    for index in range(num_restarts):
        home, url = tmp_path / f"home{index}", databases("postgres", f"crash{index}")
        contract = replace(contract_at(home, url), publish_delays_s=(0.1,) * 50)
        point = int(rng.integers(0, 20))

        with crash_in_publishing(contract, postgres, point):
            outcome = execute_stage(contract, call_of())

        assert not outcome.is_hit
        assert (home / "marks").read_text() == "."
        assert_sound(contract, url)
        contract.catalog.close()


@contextmanager
def crash_in_publishing(contract: StageContract, postgres: Any, point: int) -> Iterator[None]:
    """End and start the server at one statement, counted from the first that publishes."""
    catalog = contract.catalog
    assert isinstance(catalog, SqlCatalog)
    engine = catalog._database.engine
    launcher = contract.launcher
    assert isinstance(launcher, InlineLauncher)
    seen, main = -1, threading.get_ident()

    def is_executed() -> bool:
        return launcher.num_runs > 0

    def before(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        nonlocal seen
        if threading.get_ident() != main:
            return
        if seen < 0 and is_executed() and statement.startswith("UPDATE lease"):
            seen = 0
        if seen >= 0:
            seen += 1
            if seen == point + 1:
                postgres.kill()
                postgres.start()

    event.listen(engine, "before_cursor_execute", before)
    yield
    event.remove(engine, "before_cursor_execute", before)
    assert seen > point  # it did crash


def test_a_locked_sqlite_file_is_waited_for_and_then_a_fault_that_is_named(
    databases: Callable[[str, str], str], tmp_path: Path
) -> None:
    url = databases("sqlite", "locked")
    holder = sqlite3.connect(tmp_path / "locked.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    impatient = SqlCatalog.connect(f"{url}?timeout=0.2")
    patient = SqlCatalog.connect(url)

    with pytest.raises(TransientError, match="does not answer: database is locked"):
        impatient.start_run(RunStart(new_run_id(), "mix", "tiny"))
    waiting = threading.Thread(
        target=patient.start_run, args=(RunStart(new_run_id(), "mix", "tiny"),)
    )
    waiting.start()
    time.sleep(0.2)
    holder.execute("COMMIT")
    waiting.join(300)

    assert len(patient.running()) == 1
    holder.close()
    impatient.close()
    patient.close()


def test_a_file_that_cannot_be_written_is_a_fault_that_is_not_tried_again(
    databases: Callable[[str, str], str], tmp_path: Path
) -> None:
    url = databases("sqlite", "closed")
    catalog = SqlCatalog.connect(f"sqlite:///file:{tmp_path}/closed.sqlite?mode=ro&uri=true")

    with pytest.raises(ConfigError, match=r"cannot be opened or written.*readonly"):
        catalog.start_run(RunStart(new_run_id(), "mix", "tiny"))

    catalog.close()
    assert url.startswith("sqlite")


def run_a_pipeline_for_ever(url: str, run_id: str) -> None:
    catalog = SqlCatalog.connect(url)
    with held_run(catalog, RunStart(run_id, "pretraining", "tiny"), ttl_s=600):
        time.sleep(600)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_run_of_a_killed_pipeline_is_ended_by_the_next_look(
    backend: str, databases: Callable[[str, str], str], tmp_path: Path
) -> None:
    url, run_id = databases(backend, "pipeline"), new_run_id()
    contract = contract_at(tmp_path, url, ttl_s=600)
    pipeline = started(run_a_pipeline_for_ever, url, run_id)
    while not contract.catalog.running():
        time.sleep(0.02)

    assert sweep(contract, grace_s=0).runs == 0  # it lives
    pipeline.kill()
    pipeline.join()
    assert sweep(contract, grace_s=3600).runs == 1

    record = contract.catalog.run(run_id)
    assert (record.state, record.error) == (RunState.ABORTED, "its runner died")
    assert contract.catalog.leased(ttl_s=600) == frozenset()
    contract.catalog.close()
