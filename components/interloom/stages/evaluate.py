"""Stage: everything that is measured of a chain of models, with intervals."""

from typing import Literal

from interloom.config.evaluation import EvaluationConfig
from interloom.core.artifacts import ArtifactRef
from interloom.stages.result import StageRequest, StageResult


class EvaluateRequest(StageRequest):
    """All that the report depends on."""

    speech: ArtifactRef
    tokens: ArtifactRef
    tasks: ArtifactRef
    tokenizer: ArtifactRef
    decoder: ArtifactRef
    text_to_token: ArtifactRef
    model: ArtifactRef
    chat_model: ArtifactRef
    text_tokenizer: ArtifactRef
    config: EvaluationConfig = EvaluationConfig()
    seed: int = 0
    version: Literal[1] = 1


class EvaluateResult(StageResult):
    """The report: ``report.json``, ``examples.json`` and the WAV files they name."""

    evaluation: ArtifactRef
