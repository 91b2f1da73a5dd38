"""Train the speech decoder: speech tokens to mel frames to a waveform."""

from typing import Literal

from interloom.config.speech_decoder import DecoderConfig
from interloom.core.artifacts import ArtifactRef
from interloom.ports.engine import EngineBuilder
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
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


def train_decoder(
    request: TrainDecoderRequest,
    *,
    store: ArtifactStore,
    work: Workspace,
    engine: EngineBuilder,
) -> TrainDecoderResult:
    """Train mel regressor and vocoder together and store them as one model.

    Raises:
        DataError: Tokens and speech do not belong together, or there is no training speech.
        ConfigError: The configured voice is no speaker of the corpus.
    """
    from interloom.speech_decoder.fitting import Inputs, fit_decoder

    fitted = fit_decoder(
        Inputs(request.speech, request.tokens),
        request.config,
        seed=request.seed,
        store=store,
        work=work,
        engine=engine,
    )
    return TrainDecoderResult(decoder=fitted.ref, metrics=fitted.metrics)
