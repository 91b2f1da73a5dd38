"""Execute one stage: ``python -m interloom.stages NAME REQUEST.json``.

The request's folder is the stage's workspace. There the runner writes ``result.json``, or
``error.json`` and an exit code by the error's class, and ``progress.jsonl``. Under torchrun
every rank runs it; rank 0 writes.
"""

import argparse
import errno
import fcntl
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from interloom.bootstrap import engine_builder, open_store, quality_gate
from interloom.config.settings import RankSettings, load_settings
from interloom.core.artifacts import canonical_json
from interloom.core.errors import (
    ConfigError,
    CrashError,
    DataError,
    InterloomError,
    MissingError,
    PreemptedError,
    TransientError,
)
from interloom.core.files import written_whole
from interloom.ports.progress import NoProgress
from interloom.ports.workspace import Part, Workspace
from interloom.stages.closure import closure
from interloom.stages.registry import MAKE_SHARDS, STAGES, StageDefinition, load_stage
from interloom.stages.result import StageRequest

EXIT_CODES: Mapping[type[InterloomError], int] = {
    ConfigError: 64,
    DataError: 65,
    MissingError: 66,
    PreemptedError: 143,
    TransientError: 75,
    CrashError: 1,
}
TOLD_TO_END = EXIT_CODES[PreemptedError]


class FileProgress:
    """Appends positions to a file as JSON lines, at most two a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_s = 0.0

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Append a line, unless the last is younger than half a second."""
        now_s = time.monotonic()
        if now_s - self._last_s < 0.5 and done != total:
            return
        self._last_s = now_s
        with self._path.open("a") as file:
            file.write(json.dumps({"done": done, "total": total, "note": note}) + "\n")


def main(arguments: Sequence[str], registry: Mapping[str, str] = STAGES) -> int:
    """Execute the stage that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m interloom.stages", description=__doc__)
    parser.add_argument("name", help=f"one of {', '.join(registry)}")
    parser.add_argument("request", type=Path, help="JSON file; its folder is the workspace")
    parser.add_argument("--owner-lock", type=Path, help="end when this file's lock is given up")
    parser.add_argument("--on-cluster", action="store_true", help="end on SIGTERM; tell the usage")
    parser.add_argument("--part", type=Part.parse, help="only make these shards, as 0-of-8")
    parser.add_argument("--workspace", type=Path, help="of the stage, if not the request's folder")
    options = parser.parse_args(arguments)
    folder: Path = options.request.absolute().parent
    if options.owner_lock is not None:
        _end_with_owner(options.owner_lock)
    if options.on_cluster:  # the first process of a container ignores what it does not handle
        signal.signal(signal.SIGTERM, _end_at_once)
    try:
        _execute(options, folder, registry)
        if options.on_cluster:
            _tell_usage(folder)
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        traceback.print_exc()
        return _report(error, folder)
    return 0


def _execute(options: argparse.Namespace, folder: Path, registry: Mapping[str, str]) -> None:
    """Run the stage in its workspace and write its result; of a part, that it is made."""
    definition = load_stage(options.name, registry)
    parsed = _request(definition, options.request)
    workspace = folder if options.workspace is None else options.workspace.absolute()
    with (folder / "busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_SH)  # told to whoever wants this workspace next
        rank = RankSettings()
        _settle_numerics(definition, rank)
        if rank.rank == 0:
            sys.stderr.write(f"stage {definition.name} begins\n")
        result = _call(definition, parsed, options.part, _Places(folder, workspace, rank))
        if rank.rank == 0:
            _write(folder / "result.json", canonical_json(result))


@dataclass(frozen=True, slots=True)
class _Places:
    """The folder of this process's files, the workspace of the stage, and which rank this is."""

    folder: Path
    workspace: Path
    rank: RankSettings


def _request(definition: StageDefinition, path: Path) -> StageRequest:
    """Read the request in the stage's own class."""
    try:
        return definition.request.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"the request {path} does not exist") from None
    except ValidationError as error:
        raise ConfigError(
            f"the request of stage {definition.name!r} is not valid: {error}"
        ) from error


def _call(
    definition: StageDefinition, request: StageRequest, part: Part | None, places: _Places
) -> dict[str, Any]:
    """The stage's result; nothing for a part of its shards.

    Raises:
        ConfigError: The shards of this stage cannot be made apart.
    """
    if part is None:
        result = definition.function(request, **_ports(definition.ports, places))
        return result.model_dump(mode="json")
    if definition.shard_maker is None:
        raise ConfigError(f"stage {definition.name!r} has no {MAKE_SHARDS}: run it without --part")
    maker = definition.shard_maker
    maker.function(request, part=part, **_ports(maker.ports, places))
    return {}


def _ports(names: frozenset[str], places: _Places) -> dict[str, Any]:
    """Just those keyword ports that are asked for."""
    folder, rank = places.folder, places.rank
    available = {
        "store": lambda: open_store(load_settings()),
        "work": lambda: Workspace(
            places.workspace,
            FileProgress(folder / "progress.jsonl") if rank.rank == 0 else NoProgress(),
            patience_s=rank.interloom_rank_patience_s,
            give_up=lambda error: leave(_report(error, folder)),
            num_workers=load_settings().num_workers,
        ),
        "engine": engine_builder,
        "gate": quality_gate,
    }
    return {name: available[name]() for name in sorted(names)}


def _settle_numerics(definition: StageDefinition, rank: RankSettings) -> None:
    """Fix what torch may otherwise choose: threads and algorithms. Not for stages without torch."""
    if "torch" not in closure(definition.module).external:
        return
    import torch

    torch.set_num_threads(rank.omp_num_threads)
    # On CUDA some operations, such as the CTC loss, have no deterministic form.
    torch.use_deterministic_algorithms(mode=True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _report(error: Exception, folder: Path) -> int:
    """Write what went wrong for the launcher; the first rank that fails is heard."""
    match error:
        case InterloomError():
            known = error
        case ConnectionError() | TimeoutError() | MemoryError():
            known = TransientError(f"{type(error).__name__}: {error}")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EIO | errno.ENOMEM):
            known = TransientError(f"{type(error).__name__}: {error}")
        case _:
            known = CrashError(f"{type(error).__name__}: {error}")
    name = next((cls for cls in EXIT_CODES if isinstance(known, cls)), CrashError)
    body = {"class": name.__name__, "message": str(known)}
    if not (folder / "error.json").exists():
        _write(folder / "error.json", canonical_json(body))
    return EXIT_CODES[name]


def _end_at_once(_signal: int, _frame: FrameType | None) -> None:
    """Leave as told; a stage that has something to save puts a handler of its own in place."""
    os._exit(TOLD_TO_END)


def _tell_usage(folder: Path) -> None:
    """Leave what this rank used where the launcher looks for it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    body = {"cpu_s": used.ru_utime + used.ru_stime, "peak_rss_bytes": used.ru_maxrss * 1024}
    _write(folder / f"usage-{RankSettings().rank}.json", json.dumps(body).encode())


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    with written_whole(path) as partial:
        partial.write_bytes(data)


def _end_with_owner(lock: Path) -> None:
    """End this process when the one that holds ``lock`` is gone, however it went."""

    def watch() -> None:
        try:
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH)
        finally:  # given up, or swept away because the owner is long gone
            os._exit(EXIT_CODES[TransientError])

    threading.Thread(target=watch, name="owner", daemon=True).start()


def leave(code: int) -> None:
    """End the process at once, with everything written.

    The interpreter's own end races with the threads of torch's collectives: a rank that had done
    all its work was seen to abort there ("terminate called without an active exception").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
