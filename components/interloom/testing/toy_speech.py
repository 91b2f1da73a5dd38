"""A language so small that a test can train a model of it: each letter has its codes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from interloom.text_to_token.spans import SpanRequest, SpanResult

WORDS = ["ab", "bad", "cab", "dab", "face", "fade", "bead", "cafe", "deaf", "decade"]
CODEBOOK_SIZE = 32


_LETTERS: dict[tuple[int, ...], str] = {
    (1 + 2 * place, 2 + 2 * place): letter for place, letter in enumerate("abcdef")
}
_CODES = {letter: codes for codes, letter in _LETTERS.items()}


def codes_of(word: str) -> list[int]:
    """Code 0 to begin with, then two a letter."""
    return [0, *(code for letter in word for code in _CODES[letter])]


def sentence(index: int, *, num_words: int = 5) -> str:
    """The words that ``index`` draws."""
    rng = np.random.Generator(np.random.Philox(key=index))
    return " ".join(WORDS[place] for place in rng.integers(len(WORDS), size=num_words))


def speak(text: str) -> list[int]:
    """Codes of all words of ``text``."""
    return [code for word in text.split() for code in codes_of(word)]


def read(codes: Sequence[int]) -> str:
    """The words that ``codes`` say; a code that is out of place is a question mark."""
    said, place = [], 0
    while place < len(codes):
        if codes[place] == 0:
            said.append(" ")
            place += 1
            continue
        pair = tuple(int(code) for code in codes[place : place + 2])
        said.append(_LETTERS.get(pair, "?"))
        place += 2
    return "".join(said).strip()


def token_row(index: int, *, split: str = "train", num_words: int = 5) -> dict[str, Any]:
    """A row of a table of speech tokens, with the times of its words in frames."""
    text = sentence(index, num_words=num_words)
    words, place = [], 0
    for word in text.split():
        length = len(codes_of(word))
        words.append({"word": word, "start": place, "stop": place + length})
        place += length
    return {
        "id": f"{split}-{index}",
        "split": split,
        "speaker": f"speaker-{index % 2}",
        "text": text,
        "codes": speak(text),
        "num_samples": place * 1280,
        "words": words,
        "source": "toy",
        "licence": "CC0-1.0",
        "facts": [],
    }


def document_row(index: int, *, num_words: int, may_interleave: bool = True) -> dict[str, Any]:
    """A row of a text corpus."""
    return {
        "id": f"document-{index}",
        "split": "train",
        "text": sentence(10_000 + index, num_words=num_words),
        "source": "toy",
        "licence": "CC0-1.0",
        "may_interleave": may_interleave,
        "facts": [],
    }


class ToySpeaker:
    """Speaks the toy language without a model; a text that holds ``unspeakable`` is refused.

    Attributes:
        asked: Ids of all spans so far.
    """

    def __init__(self, *, unspeakable: str | None = None) -> None:
        self.asked: list[str] = []
        self._unspeakable = unspeakable

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order."""
        self.asked += [span.span_id for span in spans]
        return [self._speak(span) for span in spans]

    def _speak(self, span: SpanRequest) -> SpanResult:
        """All codes of a text, or a refusal."""
        if self._unspeakable is not None and self._unspeakable in span.text:
            return SpanResult(span.span_id, np.zeros(0, np.int32), reason="no end", attempts=3)
        codes = np.array(speak(span.text), np.int32)
        return SpanResult(span.span_id, codes, reason="", attempts=1)
