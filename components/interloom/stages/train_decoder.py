"""Train the speech decoder: speech tokens to mel frames to a waveform."""

from typing import Literal

from interloom.config.speech_decoder import DecoderConfig
from interloom.core.artifacts import ArtifactRef
from interloom.stages.result import StageRequest, StageResult


class TrainDecoderRequest(StageRequest):
    """All that the decoder's weights depend on."""

    speech: ArtifactRef
    tokens: ArtifactRef
    config: DecoderConfig = DecoderConfig()
    seed: int = 0
    version: Literal[1] = 1


class TrainDecoderResult(StageResult):
    """The decoder, and ``decoder/mel_l1`` on held-out speech beside the curves."""

    decoder: ArtifactRef
