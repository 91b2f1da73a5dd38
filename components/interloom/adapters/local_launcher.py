"""Stages as processes of this machine: plain Python, or torchrun for several ranks."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal

from interloom.adapters.stage_files import (
    SHUTDOWN,
    forward,
    prepare,
    stage_environment,
    stage_error,
)
from interloom.config.cluster import GRACE_S
from interloom.config.settings import child_environment
from interloom.core.errors import TransientError
from interloom.ports.launcher import LOG_FILE, JobReport, StageJob
from interloom.ports.progress import Progress

_POLL_S = 0.1
_BUSY_S = 30.0  # how long the last process of a workspace may take to notice that it is orphaned


class LocalLauncher:
    """A ``Launcher`` on this machine.

    A stage ends with its launcher: when the launcher's process dies, however it dies, the stage's
    processes notice by a file lock that is given up, and end.
    """

    def __init__(
        self,
        *,
        store_root: Path | str,
        device: Literal["cpu", "cuda"] = "cpu",
        grace_s: int = GRACE_S,
        program: Sequence[str] = ("-m", "interloom.stages"),
    ) -> None:
        """Choose what all jobs have in common.

        Args:
            store_root: The artifact store that the stages use: a folder, or a store's URL.
            device: What they compute on.
            grace_s: Between asking a stage to end and ending it.
            program: What Python runs, before the stage's name and its request.
        """
        self._store_root = store_root.absolute() if isinstance(store_root, Path) else store_root
        self._device = device
        self._grace_s = grace_s
        self._program = tuple(program)
        self._is_stopped = threading.Event()

    def check(self, demand: Mapping[str, int]) -> None:
        """This machine takes what comes."""

    def pool(self, stage: str) -> str | None:  # noqa: ARG002
        """None: everything runs here."""
        return None

    def stop(self, *, leaves_jobs: bool = False) -> None:  # noqa: ARG002 - processes end with us
        """End every stage that runs, now; from any thread. Their ``run`` raises an interrupt."""
        self._is_stopped.set()

    def reconcile(self, held: Collection[str], *, grace_s: float) -> int:  # noqa: ARG002
        """Nothing outlives its launcher here."""
        return 0

    def run(self, job: StageJob, *, progress: Progress) -> JobReport:
        """Run the job in its folder, with its output in ``log.txt`` there."""
        job.folder.mkdir(parents=True, exist_ok=True)
        _wait_until_free(job.folder)
        prepare(job)
        with _owner_lock(job.folder) as lock, (job.folder / LOG_FILE).open("ab") as log:
            started_s = time.monotonic()
            process = subprocess.Popen(
                self._command(job, lock),
                env=self._environment(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt of the terminal is ours to hand on
            )
            try:
                cpu_s, peak_rss_bytes = _follow(process, job.folder, progress, self._is_stopped)
            finally:
                if process.returncode is None:
                    _end(process, self._grace_s)
            wall_s = time.monotonic() - started_s
        if process.returncode != 0:
            raise stage_error(process.returncode, job)
        result_json = (job.folder / "result.json").read_text()
        return JobReport(result_json, wall_s, cpu_s, peak_rss_bytes)

    def _command(self, job: StageJob, lock: Path) -> list[str]:
        torchrun = (
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={job.num_ranks}",
        )
        return [
            sys.executable,
            *(torchrun if job.num_ranks > 1 else ()),
            *self._program,
            job.stage,
            str(job.folder / "request.json"),
            f"--owner-lock={lock}",
        ]

    def _environment(self, job: StageJob) -> dict[str, str]:
        return child_environment(
            {"INTERLOOM_STORE_ROOT": str(self._store_root)}
            | stage_environment(job.threads_per_rank, self._device)
            | {SHUTDOWN: str(self._grace_s)}
        )


def _follow(
    process: subprocess.Popen[bytes],
    folder: Path,
    progress: Progress,
    is_stopped: threading.Event,
) -> tuple[float, int]:
    """Wait for the end and pass progress on; returns processor seconds and peak memory."""
    offset = 0
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        offset = forward(folder / "progress.jsonl", offset, progress)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
        if is_stopped.wait(_POLL_S):
            raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes], grace_s: int) -> None:
    """Ask the process group to end, and end it when its grace time is over."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _owner_lock(folder: Path) -> Iterator[Path]:
    """A locked file whose lock is given up when this process is gone."""
    with NamedTemporaryFile(dir=folder, prefix="owner-", suffix=".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Path(file.name)


def _wait_until_free(folder: Path) -> None:
    """Let processes of a dead launcher leave the workspace.

    Raises:
        TransientError: They do not.
    """
    deadline_s = time.monotonic() + _BUSY_S
    with (folder / "busy").open("w") as busy:
        while True:
            try:
                fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise TransientError(
                        f"another process still works in {folder}; end it, or wait for it"
                    ) from None
                time.sleep(_POLL_S)
            else:
                return
