"""Stage: a pre-trained language model becomes a spoken chatbot."""

from typing import Literal

from interloom.config.dialogue import SftConfig
from interloom.core.artifacts import ArtifactRef
from interloom.stages.result import StageRequest, StageResult


class SftRequest(StageRequest):
    """All that the chatbot depends on."""

    model: ArtifactRef
    spoken_dialogues: ArtifactRef
    config: SftConfig = SftConfig()
    seed: int = 0
    version: Literal[1] = 1


class SftResult(StageResult):
    """The chatbot's weights."""

    chat_model: ArtifactRef
    num_examples: int
    num_too_long: int
