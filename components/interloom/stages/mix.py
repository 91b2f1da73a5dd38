"""Plan the mixture and pack it into rows."""

from typing import Literal

from interloom.config.mixture import MixtureConfig
from interloom.core.artifacts import ArtifactRef
from interloom.stages.result import StageRequest, StageResult


class MixRequest(StageRequest):
    """The sources, and how much of each is read.

    ``interleaved`` may be left out if the mixture does not name it.
    """

    config: MixtureConfig
    seed: int
    text: ArtifactRef
    tokens: ArtifactRef
    interleaved: ArtifactRef | None = None
    tokenizer: ArtifactRef
    text_tokenizer: ArtifactRef
    version: Literal[1] = 1


class MixResult(StageResult):
    """The packed rows."""

    rows: ArtifactRef
