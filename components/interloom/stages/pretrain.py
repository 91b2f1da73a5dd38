"""Train the language model on packed rows."""

from typing import Literal

from interloom.config.language_model import PretrainConfig
from interloom.core.artifacts import ArtifactRef
from interloom.stages.result import StageRequest, StageResult


class PretrainRequest(StageRequest):
    """The rows, the model's shape and how it is trained."""

    config: PretrainConfig
    seed: int
    rows: ArtifactRef
    version: Literal[1] = 1


class PretrainResult(StageResult):
    """The language model."""

    model: ArtifactRef
