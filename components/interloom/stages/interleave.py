"""Interleave: choose spans of words, speak them, weave them into the text, judge the rows."""

from typing import Literal

from interloom.config.interleaving import InterleavingConfig
from interloom.core.artifacts import ArtifactRef
from interloom.stages.result import StageRequest, StageResult


class InterleaveRequest(StageRequest):
    """All that the interleaved rows depend on."""

    text: ArtifactRef
    text_to_token: ArtifactRef
    tokenizer: ArtifactRef
    text_tokenizer: ArtifactRef
    config: InterleavingConfig = InterleavingConfig()
    seed: int = 0
    version: Literal[1] = 1


class InterleaveResult(StageResult):
    """The interleaved rows that passed the gate."""

    interleaved: ArtifactRef
