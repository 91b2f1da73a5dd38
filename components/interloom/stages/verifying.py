"""Make an artifact a second time and compare: the proof that it is what its record says."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from interloom.core.artifacts import ArtifactRef, Manifest, canonical_json
from interloom.core.errors import ConfigError, DataError, MissingError
from interloom.core.ids import new_run_id
from interloom.ports.catalog import RunRecord, RunStart, Verdict, Verification
from interloom.ports.launcher import StageJob
from interloom.ports.progress import NoProgress, Progress
from interloom.stages.contract import StageContract, code_digest_of, read_result
from interloom.stages.leasing import held_run
from interloom.stages.registry import load_stage
from interloom.stages.result import StageRequest, StageResult, train_config

VERIFY = "verify"
TOLERANCE = 0.02  # of a result's size, between two numeric classes or world sizes
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Second:
    """An artifact's making, as it was and as it is done again."""

    record: RunRecord
    field: str
    request: StageRequest
    num_ranks: int
    changes: tuple[str, ...]  # of what the bytes may depend on within one code
    has_other_code: bool


def verify_artifact(
    contract: StageContract,
    artifact: ArtifactRef,
    *,
    num_ranks: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Execute the stage that made an artifact again, compare, and record the verdict.

    Equal bytes are *identical*. Other bytes are *within tolerance* if the numeric class, the world
    size is another one and every result metric is within ``TOLERANCE`` of what it was; else they
    are *different*, and it is said if the stage's code has changed since. Nothing is published.

    Args:
        contract: The installation.
        artifact: What is verified.
        num_ranks: Train on so many ranks instead, with so many fewer or more accumulated batches.
        progress: Told how the stage goes.

    Raises:
        MissingError: It is not published, or no stage made it.
        ConfigError: It cannot be trained on so many ranks.
    """
    again = _second(contract, artifact, num_ranks)
    start = RunStart(
        run_id=new_run_id(),
        job=VERIFY,
        recipe=again.record.recipe,
        request_json=canonical_json({"artifact": str(artifact), "id": artifact.id}).decode(),
        numeric_class=contract.numeric_class,
        num_ranks=again.num_ranks,
        threads_per_rank=again.record.threads_per_rank,
    )
    with held_run(contract.catalog, start, ttl_s=contract.lease_ttl_s) as run_id:
        result = _execute(contract, again, run_id, progress or NoProgress())
        verdict, detail = _judge(contract, artifact, again, result)
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        verification = Verification(artifact, run_id, at, verdict, detail)
        contract.catalog.record_verification(verification)
    return verification


def _second(contract: StageContract, artifact: ArtifactRef, num_ranks: int | None) -> _Second:
    """How the artifact was made, and what will be other this time."""
    catalog = contract.catalog
    made_by = catalog.producer(artifact)
    if made_by is None:
        raise MissingError(f"{artifact} is not published; list what is: interloom data list")
    record = catalog.run(made_by)
    if record.stage_key is None:
        raise MissingError(
            f"{artifact} was taken in by run {made_by[:13]}, no stage made it, so that nothing can "
            "be executed again; its bytes are checked by: interloom data verify"
        )
    edges = catalog.edges([made_by])
    field = next(edge.name for edge in edges if edge.is_output and edge.artifact == artifact)
    definition = load_stage(record.job, contract.registry)
    request = definition.request.model_validate_json(record.request_json)
    ranks = num_ranks or record.num_ranks
    changes = {
        "numeric class": (record.numeric_class, contract.numeric_class),
        "world size": (record.num_ranks, ranks),
    }
    return _Second(
        record=record,
        field=field,
        request=_with_ranks(request, ranks) if ranks != record.num_ranks else request,
        num_ranks=ranks,
        changes=tuple(f"{name} {a} -> {b}" for name, (a, b) in changes.items() if a != b),
        has_other_code=code_digest_of(definition) != record.code_digest,
    )


def _with_ranks(request: StageRequest, num_ranks: int) -> StageRequest:
    """The same training on another number of ranks: the batch of a step stays what it was.

    Raises:
        ConfigError: It trains nothing, or the batches of a step cannot be divided so.
    """
    train = train_config(request)
    if train is None:
        raise ConfigError("--ranks is for stages that train; this one trains nothing")
    batches = train.gradient_accumulation * train.num_ranks
    if batches % num_ranks:
        raise ConfigError(
            f"a step has {batches} micro-batches, which cannot be divided among {num_ranks} ranks"
        )
    body = request.model_dump(mode="json")
    held = next(
        value for value in body["config"].values() if value == train.model_dump(mode="json")
    )
    held |= {"num_ranks": num_ranks, "gradient_accumulation": batches // num_ranks}
    return type(request).model_validate(body)


def _execute(
    contract: StageContract, again: _Second, run_id: str, progress: Progress
) -> StageResult:
    """Run the stage in a workspace of its own."""
    folder = contract.work_folder / f"{VERIFY}-{run_id}"
    job = StageJob(
        stage=again.record.job,
        request_json=canonical_json(again.request.model_dump(mode="json")).decode(),
        folder=folder,
        num_ranks=again.num_ranks,
        threads_per_rank=again.record.threads_per_rank,
    )
    try:
        report = contract.launcher.run(job, progress=progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return read_result(contract, again.record.job, report.result_json)


def _judge(
    contract: StageContract, artifact: ArtifactRef, again: _Second, result: StageResult
) -> tuple[Verdict, str]:
    """The verdict, and in words what it rests on."""
    made = result.outputs()[again.field]
    if made == artifact:
        manifest = contract.store.manifest(made)
        num_bytes = sum(shard.num_bytes for shard in manifest.shards)
        told = f"{len(manifest.shards)} shards, {num_bytes:,} bytes, sha256 of each as before"
        return Verdict.IDENTICAL, "; ".join([told, *again.changes])
    shards = _changed_shards(_manifest(contract, artifact), contract.store.manifest(made))
    name, apart = _largest_difference(contract, again, result)
    numbers = f"largest relative difference of a result: {apart:.2%} ({name or 'there is none'})"
    code = ["the stage's code has changed since"] if again.has_other_code else []
    told = "; ".join([*again.changes, *code, shards, numbers])
    if again.changes and apart <= TOLERANCE:
        return Verdict.WITHIN_TOLERANCE, told
    return Verdict.DIFFERENT, told


def _manifest(contract: StageContract, artifact: ArtifactRef) -> Manifest | None:
    """The first making's manifest; None if the store lost it."""
    try:
        return contract.store.manifest(artifact)
    except (DataError, MissingError):
        return None


def _changed_shards(was: Manifest | None, now: Manifest) -> str:
    """Which shards have other bytes."""
    if was is None:
        return "the store has lost the first manifest"
    before = {shard.path: shard.sha256 for shard in was.shards}
    after = {shard.path: shard.sha256 for shard in now.shards}
    changed = sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )
    if not changed:
        return "equal shards, but other facts, parents or licences"
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return f"{len(changed)} of {len(after)} shards differ: {', '.join(changed[:_SHOWN])}{more}"


def _largest_difference(
    contract: StageContract, again: _Second, result: StageResult
) -> tuple[str, float]:
    """The result metric that is furthest from what it was, and by what part of its size."""
    before = _results({m.name: m.value for m in contract.catalog.results(again.record.run_id)})
    after = _results({m.name: m.value for m in result.metrics if m.step is None})
    apart = {
        name: abs(after.get(name, math.inf) - value) / max(abs(value), 1e-9)
        for name, value in before.items()
        if after.get(name) != value
    }
    if not apart:
        return "", 0.0
    name = max(apart, key=lambda key: apart[key])
    return name, apart[name]


def _results(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
