"""Readmit: judge what is in quarantine again, and publish what holds now."""

from typing import Literal

from interloom.config.interleaving import QualityLimits
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.ports.catalog import Metric
from interloom.ports.gate import QualityGate
from interloom.ports.store import ArtifactStore
from interloom.stages.result import StageRequest, StageResult


class ReadmitRequest(StageRequest):
    """Rows with a quarantine, and the limits that they are judged by now."""

    interleaved: ArtifactRef
    limits: QualityLimits
    version: Literal[1] = 1


class ReadmitResult(StageResult):
    """The same rows, and those of the quarantine that hold.

    Attributes:
        interleaved: Tables and reports as the stage ``interleave`` writes them.
    """

    interleaved: ArtifactRef


def readmit(request: ReadmitRequest, *, store: ArtifactStore, gate: QualityGate) -> ReadmitResult:
    """Judge the quarantine of interleaved rows again; nothing is spoken anew.

    Raises:
        DataError: Nothing is in quarantine.
    """
    from interloom.interleaving.readmission import judge_of, readmit_rows
    from interloom.quality.manifests import judge_manifest

    manifest = store.manifest(request.interleaved)
    judge = judge_of(store, manifest, request.limits, gate)
    with store.draft(ArtifactKind.INTERLEAVED) as draft:
        done = readmit_rows(store, request.interleaved, judge, draft)
        ref = draft.commit(
            parents=(*manifest.parents, request.interleaved),
            licences=sorted(done.licences),
            facts={**manifest.facts, "quality": request.limits.model_dump(mode="json")},
        )
    values = {"rows": done.rows, "readmitted": done.readmitted, "quarantined": done.left_out}
    return ReadmitResult(
        interleaved=ref,
        metrics=tuple(Metric(f"readmit/{name}", float(one)) for name, one in values.items()),
        checks=done.checks + judge_manifest(ref, store=store, gate=gate),
    )
