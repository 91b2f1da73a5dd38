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


def speak_texts(texts: Iterable[str], speaker: Speaker) -> Mapping[str, Codes]:
    """The codes of each text that could be spoken; a text that was refused is not in the result.

    A text's codes depend on the text alone, so that equal contexts sound equal in every task.
    """
    return speak_takes(texts, speaker, [None])[0]


def speak_takes(
    texts: Iterable[str], speaker: Speaker, voices: Sequence[str | None]
) -> list[Mapping[str, Codes]]:
    """What each voice could say of the texts; None leaves the voice to the speaker."""
    wanted = sorted(set(texts))
    spans = [SpanRequest(f"task/{text}", text, voice=voice) for voice in voices for text in wanted]
    results = iter(speaker.synthesise(spans))
    takes = ([(text, next(results)) for text in wanted] for _ in voices)
    return [{text: one.codes for text, one in take if one.accepted} for take in takes]
