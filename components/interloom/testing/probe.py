"""A small stage that does as it is told, for tests of the stage contract and of launchers."""

import os
import signal
import time
from collections.abc import Mapping
from typing import Literal

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError, MissingError, TransientError
from interloom.ports.catalog import Metric
from interloom.ports.gate import CheckResult
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Part, Workspace
from interloom.stages.result import StageRequest, StageResult

REGISTRY = {"probe": "interloom.testing.probe"}
PROGRAM = ("-m", "interloom.testing")

Ending = Literal[
    "well", "config", "data", "missing", "transient", "bug", "exit", "kill", "failed_check"
]

_ERRORS: Mapping[str, Exception] = {
    "config": ConfigError("the probe refuses its request"),
    "data": DataError("the probe refuses its data"),
    "missing": MissingError("the probe misses a package"),
    "transient": TransientError("the probe's resource is away"),
    "bug": ZeroDivisionError("the probe has a bug"),
}


class ProbeRequest(StageRequest):
    """What to write, how long to take and how to end."""

    text: str
    source: ArtifactRef | None = None
    num_steps: int = 1
    step_s: float = 0.0
    num_shards: int = 0
    ending: Ending = "well"
    version: Literal[1] = 1


class ProbeResult(StageResult):
    """The text as an artifact."""

    corpus: ArtifactRef


def probe(request: ProbeRequest, *, store: ArtifactStore, work: Workspace) -> ProbeResult:
    """Take ``num_steps`` steps, keeping count in the workspace, then end as asked."""
    kept = work.folder / "steps"
    first = len(kept.read_text()) if kept.is_file() else 0
    for step in range(first, request.num_steps):
        time.sleep(request.step_s)
        with kept.open("a") as file:
            file.write(".")
        work.progress.update(step + 1, request.num_steps, f"step {step + 1}")
    _write_shards(request, work, Part(0, 1), by="the stage")
    _end(request.ending)
    with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        with draft.shard("text/train-00000.txt") as shard:
            shard.path.write_text(request.text)
            shard.count(rows=1)
        corpus = draft.commit(
            parents=[request.source] if request.source else [], licences=["CC0-1.0"]
        )
    held = CheckResult("probe", "ends well", request.ending == "well", request.ending, ("row-7",))
    return ProbeResult(
        corpus=corpus, metrics=(Metric("length", len(request.text)),), checks=(held,)
    )


def make_shards(
    request: ProbeRequest,
    *,
    store: ArtifactStore,  # noqa: ARG001 - as other stages take it
    work: Workspace,
    part: Part,
) -> None:
    """Write some of the shards, a step for each, then end as asked."""
    _write_shards(request, work, part, by=f"part {part}")
    _end(request.ending)


def _write_shards(request: ProbeRequest, work: Workspace, part: Part, *, by: str) -> None:
    """Write the shards of a part that are not there yet."""
    folder = work.folder / "shards"
    folder.mkdir(exist_ok=True)
    for shard in filter(part.takes, range(request.num_shards)):
        path = folder / f"{shard:05d}"
        if not path.is_file():
            time.sleep(request.step_s)
            path.write_text(by)
            work.progress.update(shard, request.num_shards, f"shard {shard}")


def _end(ending: Ending) -> None:
    """Leave by the error, or in the way, that was asked for."""
    if ending in _ERRORS:
        raise _ERRORS[ending]
    if ending == "exit":
        os._exit(3)
    if ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
