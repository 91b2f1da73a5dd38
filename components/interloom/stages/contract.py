"""The stage contract: one key, one publisher, all or nothing.

A stage's result is reused when its key is published and its bytes are whole. Otherwise one runner
takes the lease of the key, executes the stage in a process of its own, audits what it wrote, and
publishes it in one transaction of the catalog that checks the lease's fence. Whoever dies on the
way leaves nothing that can be seen.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from interloom.core.artifacts import Manifest, canonical_json
from interloom.core.errors import (
    DataError,
    InterloomError,
    LeaseLostError,
    MissingError,
    TransientError,
)
from interloom.core.ids import new_run_id
from interloom.ports.catalog import Catalog, Lease, Publication, RunStart, RunState, StageHit, Usage
from interloom.ports.gate import CheckResult
from interloom.ports.launcher import LOG_FILE, JobReport, Launcher, StageJob
from interloom.ports.progress import NoProgress, Progress
from interloom.ports.store import ArtifactStore
from interloom.stages.closure import closure, code_digest
from interloom.stages.leasing import beating, take
from interloom.stages.owner import owner_of
from interloom.stages.pricing import Prices
from interloom.stages.registry import STAGES, StageDefinition, load_stage
from interloom.stages.result import StageRequest, StageResult, train_config

CONTRACT_VERSION = 1  # raise it when the runner itself changes what a stage computes

_PORT_MODULES = {
    "engine": "interloom.adapters.deepspeed_engine",
    "gate": "interloom.adapters.gx_gate",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContract:
    """What the functions of this module work with.

    Attributes:
        store: Where artifacts are.
        catalog: What decides.
        launcher: What executes a stage.
        work_folder: Parent of the workspaces; each is named by its stage key.
        log_folder: Keeps the log of a stage that is complete, under its run's id.
        numeric_class: Image and device: equal requests give equal bytes within one of these.
        lease_ttl_s: After so long a silence a stage may be taken over.
        is_paranoid: Hash every byte of what is reused, not a sample.
        prices: What runs cost.
        publish_delays_s: Waits before publishing is tried again when the catalog goes away in the
            middle of it, so that the work of hours is not lost to a restart.
        registry: Stage name to module.
    """

    store: ArtifactStore
    catalog: Catalog
    launcher: Launcher
    work_folder: Path
    log_folder: Path | None = None
    numeric_class: str = ""
    lease_ttl_s: float = 30.0
    is_paranoid: bool = False
    prices: Prices = field(default_factory=Prices)
    publish_delays_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
    registry: Mapping[str, str] = field(default_factory=lambda: STAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCall:
    """One wish for one stage's result.

    Attributes:
        stage: Its name.
        request: All that the result depends on, but for the numeric class.
        recipe: Outputs are published under ``<recipe>/<stage>.<field>``.
        parent_run_id: The pipeline's run.
        num_ranks: Processes that execute it together; part of the numeric class.
        threads_per_rank: Likewise.
        is_fresh: Execute, even if there is a result to reuse; the new one replaces it.
        run_id: Of this stage's run; a new one for every attempt.
    """

    stage: str
    request: StageRequest
    recipe: str = "adhoc"
    parent_run_id: str | None = None
    num_ranks: int = 1
    threads_per_rank: int = 2
    is_fresh: bool = False
    run_id: str = field(default_factory=new_run_id)


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """What came of a call.

    Attributes:
        stage_key: Its key.
        run_id: The run that the catalog shows for this call.
        is_hit: Whether an earlier result was reused.
        result: The stage's result.
        usage: What it cost; nothing for a hit.
    """

    stage_key: str
    run_id: str
    is_hit: bool
    result: StageResult
    usage: Usage


def stage_key(contract: StageContract, call: StageCall) -> str:
    """The sha256 of everything that the result depends on.

    Raises:
        ConfigError: There is no such stage.
        MissingError: The lock file is not there.
    """
    definition = load_stage(call.stage, contract.registry)
    parts = {
        "code": code_digest_of(definition),
        "contract": CONTRACT_VERSION,
        "numeric_class": contract.numeric_class,
        "ranks": call.num_ranks,
        "request": call.request.model_dump(mode="json"),
        "stage": call.stage,
        "threads": call.threads_per_rank,
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def lookup(contract: StageContract, key: str) -> StageHit | None:
    """The published result of ``key``, if its bytes are there: a sample, or all if paranoid."""
    hit = contract.catalog.find(key)
    if hit is None:
        return None
    try:
        for ref in hit.outputs.values():
            contract.store.verify(ref, every_byte=contract.is_paranoid)
    except (DataError, MissingError):
        return None
    return hit


def why_not(contract: StageContract, call: StageCall) -> str:
    """Why a call has no result to reuse, in a few words; empty if it has one."""
    key = stage_key(contract, call)
    if lookup(contract, key) is not None:
        return ""
    if contract.catalog.find(key) is not None:
        return "bytes of its result are missing or damaged in the store"
    before = contract.catalog.last_run(call.stage, call.recipe)
    if before is None:
        return "never ran in this recipe"
    was, now = json.loads(before.request_json), call.request.model_dump(mode="json")
    changed = sorted(_differences(was, now))
    if changed:
        return f"changed: {', '.join(changed)}"
    if before.code_digest != code_digest_of(load_stage(call.stage, contract.registry)):
        return "its code, the lock file or a numeric package changed"
    return "another image, device, number of ranks or of threads"


def read_result(contract: StageContract, stage: str, result_json: str) -> StageResult:
    """Read a result in the stage's own class."""
    return load_stage(stage, contract.registry).result.model_validate_json(result_json)


def execute_stage(
    contract: StageContract, call: StageCall, *, progress: Progress | None = None
) -> StageOutcome:
    """Reuse the result of a call, wait for whoever makes it, or make and publish it.

    Safe in any number of processes at once: one executes, the others wait and reuse.

    Raises:
        ConfigError: The request contradicts itself.
        DataError: An input is not published, or the stage refused its data or a check failed.
        TransientError: The stage died or a resource was away: call again.
        CrashError: The stage has a bug.
    """
    key = stage_key(contract, call)
    shown = progress or NoProgress()
    held = _hit_or_lease(contract, call, key, shown)
    if isinstance(held, StageHit):
        record_reuse(contract, call, held)
        result = read_result(contract, call.stage, held.result_json)
        return StageOutcome(key, call.run_id, is_hit=True, result=result, usage=Usage())
    with beating(contract.catalog, held, ttl_s=contract.lease_ttl_s):
        return _execute(contract, call, _run_start(contract, call, key), held, shown)


def record_reuse(contract: StageContract, call: StageCall, hit: StageHit) -> None:
    """Record that a call was answered by an earlier result: a lineage run, complete at once."""
    start = _run_start(contract, call, hit.stage_key)
    contract.catalog.record_hit(start, hit, call.request.inputs())


def _execute(
    contract: StageContract, call: StageCall, start: RunStart, lease: Lease, progress: Progress
) -> StageOutcome:
    """Run the stage under a held lease, and publish."""
    catalog = contract.catalog
    folder = contract.work_folder / lease.stage_key
    checks: tuple[CheckResult, ...] = ()
    catalog.start_run(start)
    try:
        contract.store.prepare()
        _check_inputs(contract, call)
        report = _launch(contract, call, folder, progress)
        result = read_result(contract, call.stage, report.result_json)
        checks = result.checks
        publication = _publication(contract, call, report, result)
        _publish(contract, lease, publication)
    except InterloomError as error:
        with suppress(TransientError):  # a catalog that is away must not hide why
            catalog.end_run(call.run_id, RunState.FAILED, str(error), checks=checks)
        raise
    except BaseException as error:
        with suppress(TransientError):
            why = f"{type(error).__name__}: {error}"
            catalog.end_run(call.run_id, RunState.ABORTED, why, checks=checks)
        raise
    _keep_log(contract, call.run_id, folder)
    shutil.rmtree(folder, ignore_errors=True)
    usage = publication.usage
    return StageOutcome(lease.stage_key, call.run_id, is_hit=False, result=result, usage=usage)


def _publication(
    contract: StageContract, call: StageCall, report: JobReport, result: StageResult
) -> Publication:
    """All that becomes visible, once every check holds."""
    manifests = _audit(contract, call, result)
    outputs = result.outputs()
    train = train_config(call.request)
    weights = [ref for ref in outputs.values() if ref.kind.is_model]
    return Publication(
        run_id=call.run_id,
        result_json=canonical_json(result.model_dump(mode="json")).decode(),
        inputs=call.request.inputs(),
        outputs=outputs,
        manifests=manifests,
        metrics=result.metrics,
        checks=result.checks,
        usage=contract.prices.usage(report, num_gpus=_num_gpus(contract, call)),
        mixture=result.mixture(),
        checkpoints={train.num_steps: weights[0]} if train is not None and weights else {},
    )


def _publish(contract: StageContract, lease: Lease, publication: Publication) -> None:
    """Publish; while the catalog is away, try again for a while.

    Whether a transaction came through cannot be known when the connection broke in it; publishing
    a run twice changes nothing.
    """
    for delay_s in contract.publish_delays_s:
        try:
            contract.catalog.publish(lease, publication)
        except LeaseLostError:
            raise
        except TransientError:
            time.sleep(delay_s)
        else:
            return
    contract.catalog.publish(lease, publication)


def _num_gpus(contract: StageContract, call: StageCall) -> int:
    """One for each rank, if the stage computes with torch and the device is a GPU."""
    if not contract.numeric_class.endswith("|cuda"):
        return 0
    uses_torch = "torch" in closure(load_stage(call.stage, contract.registry).module).external
    return call.num_ranks if uses_torch else 0


def _keep_log(contract: StageContract, run_id: str, folder: Path) -> None:
    """Save what the stage said before its workspace goes."""
    if contract.log_folder is not None and (folder / LOG_FILE).is_file():
        contract.log_folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / LOG_FILE, contract.log_folder / f"{run_id}.txt")


def _launch(
    contract: StageContract, call: StageCall, folder: Path, progress: Progress
) -> JobReport:
    job = StageJob(
        stage=call.stage,
        request_json=canonical_json(call.request.model_dump(mode="json")).decode(),
        folder=folder,
        num_ranks=call.num_ranks,
        threads_per_rank=call.threads_per_rank,
        can_be_parted=load_stage(call.stage, contract.registry).shard_maker is not None,
    )
    return contract.launcher.run(job, progress=progress)


def _run_start(contract: StageContract, call: StageCall, key: str) -> RunStart:
    return RunStart(
        run_id=call.run_id,
        job=call.stage,
        recipe=call.recipe,
        parent_run_id=call.parent_run_id,
        stage_key=key,
        request_json=canonical_json(call.request.model_dump(mode="json")).decode(),
        code_digest=code_digest_of(load_stage(call.stage, contract.registry)),
        numeric_class=contract.numeric_class,
        num_ranks=call.num_ranks,
        threads_per_rank=call.threads_per_rank,
    )


def _hit_or_lease(
    contract: StageContract, call: StageCall, key: str, progress: Progress
) -> StageHit | Lease:
    """A result to reuse, at once or after waiting for its maker; or the right to make it."""
    owner = owner_of(call.run_id)
    while True:
        if not call.is_fresh and (hit := lookup(contract, key)) is not None:
            return hit
        lease = take(contract.catalog, key, owner, ttl_s=contract.lease_ttl_s)
        if lease is not None:
            break
        progress.update(0, None, "waiting for another run of the same stage")
        time.sleep(min(1.0, contract.lease_ttl_s / 10))
    if call.is_fresh:
        return lease
    if (hit := lookup(contract, key)) is not None:  # published between the look and the lease
        contract.catalog.release(lease)
        return hit
    return lease


def _check_inputs(contract: StageContract, call: StageCall) -> None:
    """Only published artifacts may be read.

    Raises:
        DataError: One is not.
    """
    for name, ref in call.request.inputs().items():
        if contract.catalog.producer(ref) is None:
            raise DataError(
                f"input {name!r} of stage {call.stage!r} is not published: {ref}; "
                "name an artifact of a complete run, or ingest it first"
            )


def _audit(contract: StageContract, call: StageCall, result: StageResult) -> tuple[Manifest, ...]:
    """The manifests of the outputs, once all may be published.

    Raises:
        DataError: A check failed, or an output was made from something that is not published.
        MissingError: An output was not committed to the store.
    """
    failed = [check for check in result.checks if not check.success and check.severity == "fail"]
    if failed:
        first = failed[0]
        rows = f"; first rows: {', '.join(first.failed_rows[:5])}" if first.failed_rows else ""
        raise DataError(
            f"stage {call.stage!r} is not published: {first.suite}: {first.expectation!r} does not "
            f"hold, observed {first.observed}{rows} ({len(failed)} checks failed)"
        )
    manifests = tuple(contract.store.manifest(ref) for ref in result.outputs().values())
    known = set(result.outputs().values()) | set(call.request.inputs().values())
    for manifest in manifests:
        for parent in manifest.parents:
            if parent not in known and contract.catalog.producer(parent) is None:
                raise DataError(
                    f"stage {call.stage!r} names {parent} as parent of {manifest.ref}, "
                    "but that is not published"
                )
    return manifests


def code_digest_of(definition: StageDefinition) -> str:
    """The digest of a stage's code, with the adapters of the ports that it takes."""
    ports = [module for port, module in _PORT_MODULES.items() if port in definition.ports]
    return code_digest(definition.module, *ports)


def _differences(was: object, now: object, path: str = "") -> Iterator[str]:
    """Dotted paths at which two JSON values differ; artifacts count as one value."""
    if isinstance(was, dict) and isinstance(now, dict) and {"kind", "id"} != set(was) | set(now):
        for key in was.keys() | now.keys():
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(was.get(key), now.get(key), below)
    elif was != now:
        yield path
