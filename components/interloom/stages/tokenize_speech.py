"""Turn a speech corpus into codes."""

from typing import Literal

from interloom.core.artifacts import ArtifactRef
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult


class TokenizeSpeechRequest(StageRequest):
    """All that the codes depend on."""

    speech: ArtifactRef
    tokenizer: ArtifactRef
    seed: int = 0
    version: Literal[1] = 1


class TokenizeSpeechResult(StageResult):
    """The codes of every utterance, in the corpus' order.

    Attributes:
        tokens: Table ``tokens`` of schema ``SPEECH_TOKENS``.
    """

    tokens: ArtifactRef


def tokenize_speech(
    request: TokenizeSpeechRequest, *, store: ArtifactStore, work: Workspace
) -> TokenizeSpeechResult:
    """Encode each utterance alone; its codes depend on nothing else.

    Raises:
        DataError: An utterance's audio cannot be read, or a word lies outside it.
    """
    from interloom.speech_tokenizer.corpus import tokenize_corpus

    written = tokenize_corpus(request.speech, request.tokenizer, store=store, work=work)
    return TokenizeSpeechResult(tokens=written.ref, metrics=written.metrics)
