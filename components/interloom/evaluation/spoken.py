"""Speech for tasks that are written down: every text spoken once, by the text-to-token model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from interloom.text_to_token.spans import SpanRequest, SpanResult

Codes = NDArray[np.int32]


class Speaker(Protocol):
    """Whoever speaks spans of text."""

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order."""
        ...


def speak_texts(texts: Iterable[str], speaker: Speaker) -> Mapping[str, Codes]:
    """The codes of each text that could be spoken; a text that was refused is not in the result.

    A text's codes depend on the text alone, so that equal contexts sound equal in every task.
    """
    wanted = sorted(set(texts))
    results = speaker.synthesise([SpanRequest(f"task/{text}", text) for text in wanted])
    return {
        text: result.codes for text, result in zip(wanted, results, strict=True) if result.accepted
    }
