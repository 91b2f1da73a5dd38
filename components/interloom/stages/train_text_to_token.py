"""Train the text-to-token model: text in, speech codes out, and no audio ever made."""

from typing import Literal

from interloom.config.text_to_token import TextToTokenConfig
from interloom.core.artifacts import ArtifactRef
from interloom.stages.result import StageRequest, StageResult


class TrainTextToTokenRequest(StageRequest):
    """All that the model depends on."""

    tokens: ArtifactRef
    tokenizer: ArtifactRef
    text_tokenizer: ArtifactRef
    config: TextToTokenConfig = TextToTokenConfig()
    seed: int = 0
    version: Literal[1] = 1


class TrainTextToTokenResult(StageResult):
    """The model, with its curves."""

    text_to_token: ArtifactRef
