"""Words of any Unicode text, with their places in its UTF-8 bytes.

A word is what stands between white space; in scripts that are written without it (Han, Kana,
Hangul stays spaced) each character is a word, with the punctuation that follows it.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]

_SPACELESS = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LONG_WORD = 12  # letters; a longer run takes the time of several words
_WORD = re.compile(rf"[{_SPACELESS}][^\w\s]*|[^\s{_SPACELESS}]+")

_IS_SPACE = np.array([chr(code).isspace() for code in range(128)])


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one text. W = number of words.

    Attributes:
        start: Byte at which each word begins.
        stop: Byte after each word's last; words are disjoint and in order.
        num_bytes: Length of the whole text.
    """

    start: Offsets
    stop: Offsets
    num_bytes: int

    def __len__(self) -> int:
        return len(self.start)


def find_words(text: str) -> Words:
    """The words of ``text``, in O(n)."""
    if text.isascii():
        return _ascii_words(text)
    bounds = [match.span() for match in _WORD.finditer(text)]
    byte_of = _byte_offsets(text)
    bytes_W2 = byte_of[np.array(bounds, np.int64).reshape(-1, 2)]
    return Words(bytes_W2[:, 0], bytes_W2[:, 1], int(byte_of[-1]))


def _ascii_words(text: str) -> Words:
    """What the pattern finds in ASCII: the runs between white space."""
    is_word = ~_IS_SPACE[np.frombuffer(text.encode(), np.uint8)]
    edges = np.flatnonzero(np.diff(is_word, prepend=False, append=False))
    return Words(edges[::2], edges[1::2], len(text))


def _byte_offsets(text: str) -> Offsets:
    """The UTF-8 byte at which each character begins, and the length; shape (characters + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (points >= 0x80) + (points >= 0x800).astype(np.int64) + (points >= 0x10000)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def word_equivalents(text: str) -> float:
    """How many words ``text`` takes the time of: its words, or one for each dozen letters."""
    letters = sum(character.isalnum() for character in text)
    return max(float(len(find_words(text))), letters / _LONG_WORD)
