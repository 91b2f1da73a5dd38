"""Turn a speech corpus into codes."""

from typing import TYPE_CHECKING, Literal

from interloom.core.artifacts import ArtifactRef
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Part, Workspace
from interloom.stages.result import StageRequest, StageResult

if TYPE_CHECKING:
    from interloom.speech_tokenizer.corpus import CorpusTokenizer


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
    written = _corpus(request, store, work).write()
    return TokenizeSpeechResult(tokens=written.ref, metrics=written.metrics)


def make_shards(
    request: TokenizeSpeechRequest, *, store: ArtifactStore, work: Workspace, part: Part
) -> None:
    """Encode some of the utterances, for ``tokenize_speech`` to put together."""
    _corpus(request, store, work).make(part)


def _corpus(
    request: TokenizeSpeechRequest, store: ArtifactStore, work: Workspace
) -> "CorpusTokenizer":
    from interloom.speech_tokenizer.corpus import CorpusTokenizer

    return CorpusTokenizer(request.speech, request.tokenizer, store, work)
