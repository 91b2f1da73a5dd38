"""Who speaks and who listens; and speech for tasks that are written down, each text spoken once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from interloom.text_to_token.spans import SpanRequest, SpanResult

Codes = NDArray[np.int32]
Waveform = NDArray[np.float32]


class Speaker(Protocol):
    """Whoever speaks spans of text."""

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order."""
        ...


class Listener(Protocol):
    """Whoever reads speech back."""

    def encode(self, waveforms: Sequence[Waveform]) -> list[Codes]:
        """Codes of each waveform."""
        ...

    def read(self, codes: Sequence[Codes]) -> list[str]:
        """The text that is heard in codes."""
        ...


def speak_texts(
    texts: Iterable[str], speaker: Speaker, *, voice: str | None = None
) -> Mapping[str, Codes]:
    """The codes of each text that could be spoken; a text that was refused is not in the result.

    Args:
        texts: What is to be said; equal texts once.
        speaker: Who says it.
        voice: In which voice; None leaves it to the speaker.
    """
    wanted = sorted(set(texts))
    spans = [SpanRequest(f"task/{text}", text, voice=voice) for text in wanted]
    results = speaker.synthesise(spans)
    return {text: one.codes for text, one in zip(wanted, results, strict=True) if one.accepted}
