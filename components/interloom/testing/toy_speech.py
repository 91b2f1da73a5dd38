"""A language so small that a test can train a model of it: each letter has its codes."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
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

    def __init__(
        self,
        *,
        unspeakable: str | None = None,
        dies_after: int | None = None,
        kills_itself_at: Path | None = None,
        kills: int = 0,
    ) -> None:
        """Choose what goes wrong.

        Args:
            unspeakable: What cannot be said.
            dies_after: An interrupt comes when more spans than these are asked for.
            kills_itself_at: Its process is killed as soon as it is asked, and a file in this folder
                tells of it.
            kills: As often as this.
        """
        self.asked: list[str] = []
        self._unspeakable = unspeakable
        self._dies_after = dies_after
        self._kills_itself_at = kills_itself_at
        self._kills = kills

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order."""
        self._go_wrong()
        self.asked += [span.span_id for span in spans]
        if self._dies_after is not None and len(self.asked) > self._dies_after:
            raise KeyboardInterrupt
        return [self._speak(span) for span in spans]

    def _go_wrong(self) -> None:
        """Be killed, if it is time."""
        if self._kills_itself_at is not None:
            self._kills_itself_at.mkdir(exist_ok=True)
            if len(list(self._kills_itself_at.iterdir())) < self._kills:
                (self._kills_itself_at / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)

    def _speak(self, span: SpanRequest) -> SpanResult:
        """All codes of a text, or a refusal."""
        if self._unspeakable is not None and self._unspeakable in span.text:
            return SpanResult(span.span_id, np.zeros(0, np.int32), reason="no end", attempts=3)
        codes = np.array(speak(span.text), np.int32)
        return SpanResult(span.span_id, codes, reason="", attempts=1)
