"""What the launcher of a cluster does with what the cluster shows, whatever runs the stage."""

# ruff: noqa: ARG002 - a script of sights needs few of its arguments

import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from interloom.adapters.cluster import launcher as module
from interloom.adapters.cluster.launcher import ClusterLauncher
from interloom.adapters.cluster.manifests import Attempt
from interloom.adapters.cluster.workloads import Phase, Sight
from interloom.config.cluster import ClusterProfile
from interloom.core.errors import ConfigError, CrashError, TransientError
from interloom.ports.launcher import StageJob

Json = dict[str, Any]


class NoLogs:
    """A cluster whose pods said nothing."""

    def text(self, *_: object) -> str:
        return ""


class Scripted:
    """Workloads that show one sight after the other; the last one stays."""

    heals_itself = False

    def __init__(self, *attempts: list[Sight | Exception]) -> None:
        self.attempts = list(attempts)
        self.started: list[int] = []
        self.removed: list[int] = []
        self.there: tuple[int, Phase] | None = None

    def preflight(self, job: StageJob, attempt: Attempt, *, is_alone: bool = False) -> None:
        pass

    def newest(self, job: StageJob) -> tuple[int, Phase] | None:
        return self.there

    def start(self, job: StageJob, attempt: Attempt) -> None:
        self.started.append(attempt.number)
        self.there = (attempt.number, Phase.RUNNING)

    def look(self, job: StageJob, number: int) -> Sight:
        if number in self.removed:
            return Sight(Phase.FAILED)
        sights = self.attempts[len(self.started) - 1]
        sight = sights.pop(0) if len(sights) > 1 else sights[0]
        if isinstance(sight, Exception):
            raise sight
        if sight.phase is Phase.SUCCEEDED:
            (job.folder / "result.json").write_text("{}")
        return sight

    def remove(self, job: StageJob, number: int) -> None:
        self.removed.append(number)
        self.there = None

    def end_orphans(self, held: Collection[str], *, grace_s: float) -> int:
        return 0


class Told:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def update(self, done: int, total: int | None, note: str = "") -> None:
        self.notes.append(note)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    monkeypatch.setattr(module, "_SETTLE_S", 0.05)


def launcher(workloads: Scripted, **changes: Any) -> ClusterLauncher:
    body = {"default_pool": "cpu", "pools": {"cpu": {}}, "pod": {}, "max_preemptions": 2} | changes
    profile = ClusterProfile.model_validate(body)
    return ClusterLauncher(NoLogs(), profile, workloads)  # type: ignore[arg-type]


def job(folder: Path, num_ranks: int = 1) -> StageJob:
    return StageJob("pretrain", "{}", folder / ("7f" * 32), num_ranks)


def pod(rank: int = 0, uid: str = "u", *, code: int | None = None, **metadata: Any) -> Json:
    state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
    phase = "Running" if code is None else ("Failed" if code else "Succeeded")
    labels = {"interloom.dev/rank": str(rank)}
    status = {"phase": phase, "containerStatuses": [{"image": "a/b:1", "state": state}]}
    return {
        "metadata": {"name": f"p{rank}", "uid": uid, "labels": labels, **metadata},
        "status": status,
    }


DONE = Sight(Phase.SUCCEEDED)


def failed(*codes: int) -> Sight:
    pods = [pod(rank, f"u{rank}", code=code) for rank, code in enumerate(codes)]
    return Sight(Phase.FAILED, pods)


@pytest.mark.parametrize("code", [137, 143, 76])
def test_what_the_cluster_takes_away_starts_again_under_a_new_number(
    tmp_path: Path, code: int
) -> None:
    workloads, told = Scripted([failed(code)], [DONE]), Told()

    launcher(workloads).run(job(tmp_path), progress=told)

    assert (workloads.started, workloads.removed) == ([1, 2], [1])
    assert any(note.startswith("starts again: ") for note in told.notes)


def test_what_is_taken_away_more_often_than_the_budget_is_given_up(tmp_path: Path) -> None:
    workloads = Scripted([failed(143)], [failed(143)], [failed(143)])

    with pytest.raises(TransientError, match="taken away by the cluster 3 times; raise max_pree"):
        launcher(workloads).run(job(tmp_path), progress=Told())

    assert workloads.removed == [1, 2, 3]


def test_the_rank_that_was_killed_is_the_cause_not_those_that_missed_it(tmp_path: Path) -> None:
    workloads = Scripted([failed(1, 137)], [DONE])

    launcher(workloads).run(job(tmp_path, 2), progress=Told())

    assert workloads.started == [1, 2]


def test_ranks_that_fail_by_themselves_are_a_crash(tmp_path: Path) -> None:
    workloads = Scripted([failed(1, 3)])

    with pytest.raises(CrashError, match="ended with exit code 3"):
        launcher(workloads).run(job(tmp_path, 2), progress=Told())

    assert workloads.removed == [1]


@pytest.mark.parametrize(
    "second",
    [
        Sight(Phase.RUNNING, [pod(0, "u0"), pod(1, "another")]),
        Sight(Phase.RUNNING, [pod(0, "u0"), pod(1, "u1", deletionTimestamp="now")]),
    ],
)
def test_a_rank_that_is_replaced_or_goes_ends_the_attempt(tmp_path: Path, second: Sight) -> None:
    first = Sight(Phase.RUNNING, [pod(0, "u0"), pod(1, "u1")])
    workloads = Scripted([first, second], [DONE])

    launcher(workloads).run(job(tmp_path, 2), progress=Told())

    assert workloads.started == [1, 2]


def test_a_pod_that_is_replaced_alone_just_goes_on(tmp_path: Path) -> None:
    first, second = Sight(Phase.RUNNING, [pod(0, "u0")]), Sight(Phase.RUNNING, [pod(0, "u1")])
    workloads = Scripted([first, second, DONE])

    launcher(workloads).run(job(tmp_path), progress=Told())

    assert workloads.started == [1]


def test_out_of_memory_is_not_tried_again(tmp_path: Path) -> None:
    full = pod(code=137)
    full["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"

    with pytest.raises(ConfigError, match="ran out of memory: its limit is the node's in pool"):
        launcher(Scripted([Sight(Phase.FAILED, [full])])).run(job(tmp_path), progress=Told())


def test_a_cluster_that_is_silent_for_a_while_does_no_harm(tmp_path: Path) -> None:
    away = TransientError("no API server answers")
    workloads, told = Scripted([away, away, DONE]), Told()

    launcher(workloads).run(job(tmp_path), progress=told)

    assert "the API server is silent: no API server answers" in told.notes


def test_a_cluster_that_is_silent_for_too_long_is_told_and_keeps_its_jobs(tmp_path: Path) -> None:
    workloads = Scripted([TransientError("no API server answers")])

    with pytest.raises(TransientError, match=r"no API server answers \(silent for"):
        launcher(workloads, away_s=0.05).run(job(tmp_path), progress=Told())

    assert workloads.removed == []


def test_a_flow_that_comes_back_goes_on_with_what_runs(tmp_path: Path) -> None:
    workloads = Scripted([Sight(Phase.RUNNING)], [DONE])
    first = launcher(workloads)
    thread = threading.Thread(target=lambda: _stopped(first, job(tmp_path)))
    thread.start()
    _wait(lambda: workloads.started == [1])
    first.stop(leaves_jobs=True)
    thread.join(10)

    told = Told()
    launcher(workloads).run(job(tmp_path), progress=told)

    assert (workloads.started, workloads.removed) == ([1, 1], [])
    assert told.notes[0] == "goes on with attempt 1"


def test_a_stage_that_is_cancelled_is_taken_away(tmp_path: Path) -> None:
    workloads = Scripted([Sight(Phase.RUNNING)])
    started = launcher(workloads)
    started.stop()

    with pytest.raises(KeyboardInterrupt):
        started.run(job(tmp_path), progress=Told())

    assert workloads.removed == [1]


def test_a_result_that_waits_is_taken_and_one_that_is_gone_is_made_again(tmp_path: Path) -> None:
    workloads = Scripted([DONE], [DONE])
    launcher(workloads).run(job(tmp_path), progress=Told())
    workloads.there = (1, Phase.SUCCEEDED)
    launcher(workloads).run(job(tmp_path), progress=Told())
    assert workloads.started == [1, 1]

    (job(tmp_path).folder / "result.json").unlink()
    workloads.there = (1, Phase.SUCCEEDED)
    workloads.attempts = [[DONE]] * 3
    launcher(workloads).run(job(tmp_path), progress=Told())
    assert workloads.started == [1, 1, 2]


def _stopped(started: ClusterLauncher, stage: StageJob) -> None:
    with pytest.raises(KeyboardInterrupt):
        started.run(stage, progress=Told())


def _wait(condition: Callable[[], bool]) -> None:
    for _ in _ticks():
        if condition():
            return


def _ticks() -> Iterator[None]:
    for _ in range(500):
        threading.Event().wait(0.01)
        yield
