"""Words of any Unicode text, with their places in its UTF-8 bytes.

A word is what stands between white space. In scripts that are written without it (Han, Kana, Thai,
Lao, Khmer, Myanmar, Tibetan; Hangul is spaced) each character is a word, with the marks and the
punctuation that follow it; how many of them a spoken word takes is told beside.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]

_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff"
_SYLLABIC = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai to Tibetan, Myanmar, Khmer
_LEADING = "\u0e40-\u0e44\u0ec0-\u0ec4"  # vowels written before the consonant they follow
SPACELESS = _HAN + _KANA + _SYLLABIC
_UNITS_PER_WORD = (  # characters, with their marks, in a usual word
    (re.compile(f"[{_HAN}]"), 1.6),
    (re.compile(f"[{_KANA}]"), 2.5),
    (re.compile(f"[{_LEADING}]?[{_SYLLABIC}][^\\w\\s]*"), 3.0),
)
_LONG_WORD = 12  # letters; a longer run takes the time of several words
_WORD = re.compile(rf"[{_LEADING}]?[{SPACELESS}][^\w\s]*|[^\s{SPACELESS}]+")

_IS_SPACE = np.array([chr(code).isspace() for code in range(128)])


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one text. W = number of words.

    Attributes:
        start: Byte at which each word begins.
        stop: Byte after each word's last; words are disjoint and in order.
        num_bytes: Length of the whole text.
        units_per_word: How many of them make a word as speech has them: 1 where words are spaced.
    """

    start: Offsets
    stop: Offsets
    num_bytes: int
    units_per_word: float = 1.0

    def __len__(self) -> int:
        return len(self.start)


def find_words(text: str) -> Words:
    """The words of ``text``, in O(n)."""
    if text.isascii():
        return _ascii_words(text)
    bounds = [match.span() for match in _WORD.finditer(text)]
    byte_of = _byte_offsets(text)
    bytes_W2 = byte_of[np.array(bounds, np.int64).reshape(-1, 2)]
    scale = _units_per_word(text, len(bounds))
    return Words(bytes_W2[:, 0], bytes_W2[:, 1], int(byte_of[-1]), scale)


def _units_per_word(text: str, num_units: int) -> float:
    """Units a word, over the whole text."""
    words = float(num_units)
    for pattern, units in _UNITS_PER_WORD:
        words -= len(pattern.findall(text)) * (1 - 1 / units)
    return num_units / words if num_units else 1.0


def _ascii_words(text: str) -> Words:
    """What the pattern finds in ASCII: the runs between white space."""
    is_word = np.zeros(len(text) + 2, bool)
    is_word[1:-1] = ~_IS_SPACE[np.frombuffer(text.encode(), np.uint8)]
    edges = np.flatnonzero(is_word[1:] != is_word[:-1])
    return Words(edges[::2], edges[1::2], len(text))


def _byte_offsets(text: str) -> Offsets:
    """The UTF-8 byte at which each character begins, and the length; shape (characters + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (points >= 0x80) + (points >= 0x800).astype(np.int64) + (points >= 0x10000)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def word_equivalents(text: str) -> float:
    """How many words ``text`` takes the time of: its words, or one for each dozen letters."""
    letters = sum(map(str.isalnum, text))
    return max(float(len(find_words(text))), letters / _LONG_WORD)
