"""Train the speech tokenizer on transcribed speech (P1, section 2.1)."""

from typing import Literal

from interloom.config.speech_tokenizer import TokenizerConfig
from interloom.core.artifacts import ArtifactRef
from interloom.ports.engine import EngineBuilder
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult


class TrainTokenizerRequest(StageRequest):
    """All that the tokenizer depends on."""

    speech: ArtifactRef
    text_tokenizer: ArtifactRef
    config: TokenizerConfig = TokenizerConfig()
    seed: int = 0
    version: Literal[1] = 1


class TrainTokenizerResult(StageResult):
    """The tokenizer; metrics ``tokenizer/wer``, ``tokenizer/codes_used``, ``tokenizer/perplexity``.

    The checks hold its codebook to the limits of ``config.health``.

    Attributes:
        tokenizer: Encoder, codebook and reading heads.
    """

    tokenizer: ArtifactRef


def train_tokenizer(
    request: TrainTokenizerRequest,
    *,
    store: ArtifactStore,
    work: Workspace,
    engine: EngineBuilder,
) -> TrainTokenizerResult:
    """Train on the ``train`` split, measure on ``heldout``.

    Raises:
        DataError: The corpus has no transcribed speech in one of the splits.
    """
    from interloom.speech_tokenizer.train import TokenizerInputs, train_and_save

    trained = train_and_save(
        request.config,
        TokenizerInputs(request.speech, request.text_tokenizer),
        store=store,
        work=work,
        engine=engine,
        seed=request.seed,
    )
    return TrainTokenizerResult(
        tokenizer=trained.ref, metrics=trained.metrics, checks=trained.checks
    )
