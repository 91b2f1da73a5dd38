"""What a stage's process leaves in its workspace, as every launcher reads it."""

import json
import re
import signal
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from interloom.core.errors import (
    ConfigError,
    CrashError,
    DataError,
    InterloomError,
    MissingError,
    PreemptedError,
    TransientError,
)
from interloom.ports.launcher import LOG_FILE, StageJob
from interloom.ports.progress import Progress

SHUTDOWN = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # torchrun's own is shorter than our grace time
_SPINS = "1000"  # some microseconds
_LOG_LINES = 24  # a bug with all places that led to it
_REPORT_LINES = 40  # of torchrun, on how its ranks ended
_KILLED_RANK = re.compile(
    r"Root Cause(?s:.*?)rank\s*:\s*(?P<rank>\d+).*\n.*exitcode\s*:\s*-(?P<signal>\d+)"
)
_ERRORS: Mapping[str, type[InterloomError]] = {
    cls.__name__: cls
    for cls in (ConfigError, DataError, MissingError, PreemptedError, TransientError, CrashError)
}


def prepare(job: StageJob) -> None:
    """Remove what an earlier execution said, and write the request."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for path in (
        *(job.folder / name for name in ("result.json", "error.json", "progress.jsonl")),
        *job.folder.glob("usage-*.json"),
    ):
        path.unlink(missing_ok=True)
    (job.folder / "request.json").write_text(job.request_json)


def stage_environment(threads: int, device: Literal["cpu", "cuda"]) -> dict[str, str]:
    """What fixes a stage's numerics, and its manners: the same on every launcher.

    Threads that wait for another go to sleep soon. As long as they spin by default, two trainings
    of two threads on two cores wait for each other ten times as long as they compute.
    CUDA is looked for without starting its driver, which a worker that is forked later could not
    use.
    """
    number = str(threads)
    cpu_only = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return {
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "OPENBLAS_NUM_THREADS": number,
        "GOMP_SPINCOUNT": _SPINS,
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    } | (cpu_only if device == "cpu" else {})


def forward(path: Path, offset: int, progress: Progress) -> int:
    """Pass on the last whole line behind ``offset``; returns where to go on."""
    if not path.is_file() or path.stat().st_size == offset:
        return offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole, newline, _ = data.rpartition(b"\n")
    if newline:
        last = json.loads(whole.rpartition(b"\n")[2])
        progress.update(last["done"], last["total"], last["note"])
    return offset + len(whole) + len(newline)


def stage_error(exit_code: int, job: StageJob) -> InterloomError:
    """What to raise for a job that failed: the stage's own error, with the end of its log."""
    log = job.folder / LOG_FILE
    where = f"\n  the log {log} ends:\n{tail(log)}"
    path = job.folder / "error.json"
    if path.is_file():
        body = json.loads(path.read_text())
        cls = _ERRORS.get(body["class"], CrashError)
        is_bug = cls is CrashError
        return cls(f"stage {job.stage!r}: {body['message']}{where if is_bug else ''}")
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = "; was the machine out of memory?" if exit_code == -signal.SIGKILL else ""
        return TransientError(f"stage {job.stage!r} was ended by {name}{hint}{where}")
    if job.num_ranks > 1 and (found := _KILLED_RANK.search(tail(log, _REPORT_LINES))) is not None:
        name = signal.Signals(int(found["signal"])).name
        return TransientError(
            f"stage {job.stage!r}: rank {found['rank']} was ended by {name}, and with it the others"
        )
    if exit_code in {75, 143}:
        return TransientError(f"stage {job.stage!r} was told to end{where}")
    return CrashError(f"stage {job.stage!r} ended with exit code {exit_code}{where}")


def tail(log: Path, num_lines: int = _LOG_LINES) -> str:
    """The last lines of a log, indented."""
    if not log.is_file():
        return "    (empty)"
    with log.open(errors="replace") as file:
        return "".join(f"    {line}" for line in deque(file, num_lines)).rstrip()
