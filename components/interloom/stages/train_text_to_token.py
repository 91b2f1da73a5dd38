"""Train the text-to-token model: text in, speech codes out, and no audio ever made."""

from typing import Literal

from interloom.config.text_to_token import TextToTokenConfig
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.ports.engine import EngineBuilder
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
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
    """The model, with its curves and ``text_to_token/heldout_nll``."""

    text_to_token: ArtifactRef


def train_text_to_token(
    request: TrainTextToTokenRequest,
    *,
    store: ArtifactStore,
    work: Workspace,
    engine: EngineBuilder,
) -> TrainTextToTokenResult:
    """Train on the transcribed speech of the ``train`` split.

    Raises:
        DataError: No utterance has text and codes, or the codes are another tokenizer's.
    """
    from interloom.text.bpe import load_text_tokenizer
    from interloom.text_to_token.fitting import Inputs, fit
    from interloom.vocabulary.layout import VocabularyLayout

    facts = store.manifest(request.tokens).facts
    if facts["tokenizer"] != request.tokenizer.id:
        raise DataError(
            f"{request.tokens} was made with speech tokenizer {facts['tokenizer'][:12]}, the "
            f"model is for {request.tokenizer.id[:12]}; tokenize the speech again"
        )
    layout = VocabularyLayout(
        text_vocab_size=load_text_tokenizer(store, request.text_tokenizer).vocab_size,
        codebook_size=facts["codebook_size"],
        text_tokenizer=request.text_tokenizer.id,
        tokenizer=request.tokenizer.id,
    )
    fitted = fit(
        Inputs(request.tokens, layout),
        request.config,
        seed=request.seed,
        store=store,
        work=work,
        engine=engine,
    )
    return TrainTextToTokenResult(text_to_token=fitted.ref, metrics=fitted.metrics)
