"""What every launcher keeps: in this process, and in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.adapters.local_launcher import LocalLauncher
from interloom.core.errors import (
    ConfigError,
    CrashError,
    DataError,
    InterloomError,
    MissingError,
    TransientError,
)
from interloom.ports.launcher import Launcher, StageJob
from interloom.ports.progress import NoProgress
from interloom.testing.launcher import InlineLauncher
from interloom.testing.probe import PROGRAM, REGISTRY, ProbeRequest, ProbeResult


class Positions:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int | None, str]] = []

    def update(self, done: int, total: int | None, note: str = "") -> None:
        self.seen.append((done, total, note))


@pytest.fixture(params=["inline", pytest.param("local", marks=pytest.mark.slow)])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Launcher:
    if request.param == "inline":
        return InlineLauncher(FolderStore(tmp_path / "store"), registry=REGISTRY)
    return local(tmp_path)


def local(tmp_path: Path) -> LocalLauncher:
    return LocalLauncher(store_root=tmp_path / "store", program=PROGRAM)


def job(tmp_path: Path, request: ProbeRequest, num_ranks: int = 1) -> StageJob:
    return StageJob("probe", request.model_dump_json(), tmp_path / "work" / "key", num_ranks)


def test_a_stage_runs_and_its_result_comes_back(launcher: Launcher, tmp_path: Path) -> None:
    shown = Positions()

    report = launcher.run(job(tmp_path, ProbeRequest(text="hello", num_steps=3)), progress=shown)

    result = ProbeResult.model_validate_json(report.result_json)
    store = FolderStore(tmp_path / "store")
    shard = store.manifest(result.corpus).shards[0]
    assert store.local_path(shard).read_text() == "hello"
    assert result.metric("length") == 5
    assert shown.seen[-1] == (3, 3, "step 3")


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        ("config", ConfigError, "refuses its request"),
        ("data", DataError, "refuses its data"),
        ("missing", MissingError, "misses a package"),
        ("transient", TransientError, "resource is away"),
    ],
)
def test_a_stages_error_comes_back_as_its_class(
    launcher: Launcher, tmp_path: Path, ending: str, error: type[InterloomError], message: str
) -> None:
    request = ProbeRequest.model_validate({"text": "x", "ending": ending})

    with pytest.raises(error, match=message):
        launcher.run(job(tmp_path, request), progress=NoProgress())


@pytest.mark.slow
def test_a_bug_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(CrashError, match=r"(?s)ZeroDivisionError.*log\.txt ends:.*Traceback"):
        local(tmp_path).run(
            job(tmp_path, ProbeRequest(text="x", ending="bug")), progress=NoProgress()
        )


@pytest.mark.slow
def test_a_killed_stage_can_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="ended by SIGKILL; was the machine out of memory"):
        local(tmp_path).run(
            job(tmp_path, ProbeRequest(text="x", ending="kill")), progress=NoProgress()
        )


@pytest.mark.slow
def test_a_stage_that_leaves_without_a_word_is_told_by_its_code(tmp_path: Path) -> None:
    with pytest.raises(CrashError, match="ended with exit code 3"):
        local(tmp_path).run(
            job(tmp_path, ProbeRequest(text="x", ending="exit")), progress=NoProgress()
        )


@pytest.mark.slow
def test_a_request_that_is_not_valid_is_refused(tmp_path: Path) -> None:
    broken = StageJob("probe", '{"text": 7, "colour": "red"}', tmp_path / "work" / "key")

    with pytest.raises(ConfigError, match="the request of stage 'probe' is not valid"):
        local(tmp_path).run(broken, progress=NoProgress())


@pytest.mark.slow
def test_a_process_knows_its_threads_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOOM_DATABASE_URL", "postgresql+psycopg://me:hidden@db/x")
    script = tmp_path / "show.py"
    script.write_text(
        "import json, os, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[2]).parent\n"
        "(folder / 'result.json').write_text(json.dumps(dict(os.environ)))\n"
    )
    launcher = LocalLauncher(store_root=tmp_path / "store", program=(str(script),))

    report = launcher.run(
        StageJob("probe", "{}", tmp_path / "work", threads_per_rank=3), progress=NoProgress()
    )

    seen = json.loads(report.result_json)
    assert (seen["OMP_NUM_THREADS"], seen["PYTHONHASHSEED"]) == ("3", "0")
    assert seen["GOMP_SPINCOUNT"] == "1000"
    assert (seen["DS_ACCELERATOR"], seen["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    assert "INTERLOOM_DATABASE_URL" not in seen
    assert report.peak_rss_bytes > 1_000_000
    assert report.cpu_s > 0


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_stage_ends_with_its_launcher(tmp_path: Path, num_ranks: int) -> None:
    request = ProbeRequest(text="x", num_steps=600, step_s=0.1)
    program = (
        "from pathlib import Path;"
        "from interloom.adapters.local_launcher import LocalLauncher;"
        "from interloom.ports.launcher import StageJob;"
        "from interloom.ports.progress import NoProgress;"
        f"launcher = LocalLauncher(store_root=Path({str(tmp_path / 'store')!r}),"
        f" program={PROGRAM!r});"
        f"job = StageJob('probe', {request.model_dump_json()!r}, Path({str(tmp_path)!r}),"
        f" {num_ranks});"
        "launcher.run(job, progress=NoProgress())"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program])
    wait_for(lambda: (tmp_path / "steps").exists() and bool(stages_in(tmp_path)), 60)

    launcher.send_signal(signal.SIGKILL)
    launcher.wait()

    wait_for(lambda: not stages_in(tmp_path), 20)


@pytest.mark.slow
def test_an_interrupt_ends_the_stage_too(tmp_path: Path) -> None:
    class Interrupt:
        def update(self, done: int, total: int | None, note: str = "") -> None:  # noqa: ARG002
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local(tmp_path).run(
            job(tmp_path, ProbeRequest(text="x", num_steps=600, step_s=0.1)), progress=Interrupt()
        )

    assert not stages_in(tmp_path)


@pytest.mark.slow
def test_a_launcher_that_is_told_to_stop_ends_its_stage(tmp_path: Path) -> None:
    launcher = local(tmp_path)

    class StopAtTwo:
        def update(self, done: int, total: int | None, note: str = "") -> None:  # noqa: ARG002
            if done == 2:
                launcher.stop()

    with pytest.raises(KeyboardInterrupt):
        launcher.run(
            job(tmp_path, ProbeRequest(text="x", num_steps=60, step_s=0.6)), progress=StopAtTwo()
        )

    assert not stages_in(tmp_path)


SAVES_OR_STAYS = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2]).parent
def end(*_):
    time.sleep(0.5)
    (folder / 'saved').touch()
    if sys.argv[1] == 'saves':
        sys.exit(143)
signal.signal(signal.SIGTERM, end)
(folder / 'progress.jsonl').write_text('{"done": 1, "total": 2, "note": ""}\\n')
while True:
    time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "grace_s"), [("saves", 600), ("stays", 2)])
def test_a_stage_has_its_grace_time_to_save_and_no_more(
    tmp_path: Path, stage: str, grace_s: int
) -> None:
    (tmp_path / "program.py").write_text(SAVES_OR_STAYS)
    program = (str(tmp_path / "program.py"),)
    launcher = LocalLauncher(store_root=tmp_path, grace_s=grace_s, program=program)

    class Stop:
        def update(self, done: int, total: int | None, note: str = "") -> None:  # noqa: ARG002
            launcher.stop()

    with pytest.raises(KeyboardInterrupt):
        launcher.run(StageJob(stage, "{}", tmp_path / "work"), progress=Stop())

    assert (tmp_path / "work/saved").is_file()


@pytest.mark.slow
def test_two_ranks_write_one_result(tmp_path: Path) -> None:
    report = local(tmp_path).run(
        job(tmp_path, ProbeRequest(text="together"), num_ranks=2), progress=NoProgress()
    )

    assert ProbeResult.model_validate_json(report.result_json).metric("length") == 8


@pytest.mark.slow
def test_the_error_of_a_rank_comes_through_torchrun(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the probe refuses its data"):
        local(tmp_path).run(
            job(tmp_path, ProbeRequest(text="x", ending="data"), num_ranks=2),
            progress=NoProgress(),
        )


def stages_in(folder: Path) -> list[int]:
    """Processes whose command line names a request below ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if any(word.startswith(f"{folder}/") for word in words if "request.json" in word):
                    found.append(int(entry.name))
    return found


def wait_for(condition: Callable[[], bool], limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not so within {limit_s} s"
        time.sleep(0.1)
