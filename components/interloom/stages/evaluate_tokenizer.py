"""Stage: everything that is measured of a speech tokenizer alone, with intervals."""

from typing import Literal

from interloom.config.evaluation import EvaluationConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult


class EvaluateTokenizerRequest(StageRequest):
    """All that the report depends on."""

    speech: ArtifactRef
    tokenizer: ArtifactRef
    config: EvaluationConfig = EvaluationConfig()
    seed: int = 0
    version: Literal[1] = 1


class EvaluateTokenizerResult(StageResult):
    """The report: ``report.json`` and ``examples.json``."""

    tokenizer_evaluation: ArtifactRef


def evaluate_tokenizer(
    request: EvaluateTokenizerRequest, *, store: ArtifactStore, work: Workspace
) -> EvaluateTokenizerResult:
    """Read held-out speech back from its codes: as it is, fast, slow, in noise, in unseen voices.

    Raises:
        DataError: No held-out utterance has a text.
    """
    from interloom.corpora.tables import read_table
    from interloom.evaluation.choice import choose
    from interloom.evaluation.measures import Judging
    from interloom.evaluation.report import write_report
    from interloom.evaluation.speech_tokens import HeldOut, measure_codes
    from interloom.speech_tokenizer.runtime import load_speech_tokenizer

    work.progress.update(0, None, "held-out speech")
    columns = ["id", "text", "audio", "speaker", "source", "words"]
    table = read_table(store, request.speech, "utterances", split="heldout", columns=columns)
    rows = [row for row in table if row["text"]]
    if not rows:
        raise DataError(f"{request.speech} has no held-out utterance with a text")
    audio = {row["id"]: row.pop("audio") for row in rows}
    trained = read_table(store, request.speech, "utterances", split="train", columns=["speaker"])
    held_out = HeldOut(
        choose("heldout_speech", rows, request.config.max_utterances, seed=request.seed),
        audio,
        frozenset(row["speaker"] for row in trained),
    )
    tokenizer = load_speech_tokenizer(store, request.tokenizer)
    findings = measure_codes(held_out, tokenizer, Judging(request.config, request.seed))
    models = {"tokenizer": request.tokenizer.id}
    with store.draft(ArtifactKind.EVALUATION) as draft:
        write_report(draft, findings, request.config, models)
        ref = draft.commit(
            parents=(request.speech, request.tokenizer),
            licences=store.manifest(request.speech).licences,
            facts={"seed": request.seed, **models},
        )
    metrics = tuple(metric for one in findings.measures for metric in one.to_metrics())
    return EvaluateTokenizerResult(tokenizer_evaluation=ref, metrics=metrics)
