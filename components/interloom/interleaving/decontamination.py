"""Documents that hold what evaluation asks for, found by runs of words.

A document is compared with its whole text, so that what is spoken counts as what is written. Words
are numbered, and runs of them hashed, so that a document costs O(n).
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from interloom.config.interleaving import Decontamination
from interloom.text.words import SPACELESS

Hashes = NDArray[np.uint64]

_WORD = re.compile(rf"[{SPACELESS}]|[^\W{SPACELESS}]+")
_SILENT = re.compile("['\u2019\u02bc]")
_FACTOR = 0x9E3779B97F4A7C15  # odd: each word reaches every bit above it
_UNKNOWN = 0


class Contamination:
    """Runs of words of evaluation texts."""

    def __init__(self, texts: Iterable[str], config: Decontamination) -> None:
        self._longest = config.ngram_words
        self._runs: dict[int, set[tuple[str, ...]]] = {}
        for text in texts:
            words = plain_words(text)
            size = min(len(words), self._longest)
            if size >= config.min_words:
                runs = (tuple(words[at : at + size]) for at in range(len(words) - size + 1))
                self._runs.setdefault(size, set()).update(runs)

    def holds(self, text: str) -> bool:
        """Whether a run of evaluation text is in ``text``."""
        if not self._runs:
            return False
        tables, numbers = self._tables
        words = plain_words(text)
        ids = np.fromiter((numbers.get(word, _UNKNOWN) for word in words), np.uint64, len(words))
        return any(self._matches(words, ids, size, table) for size, table in tables.items())

    def _matches(self, words: list[str], ids: Hashes, size: int, table: Hashes) -> bool:
        """Whether a run of ``size`` words is one of an evaluation text."""
        if len(ids) < size:
            return False
        hashes = _hashes(ids, size)
        place = np.minimum(np.searchsorted(table, hashes), len(table) - 1)
        found = np.flatnonzero(table[place] == hashes).tolist()
        runs = self._runs[size]
        return any(tuple(words[at : at + size]) in runs for at in found)

    @cached_property
    def _tables(self) -> tuple[dict[int, Hashes], dict[str, int]]:
        """Sorted hashes of the runs of each length, and the numbers of their words."""
        known = sorted({word for runs in self._runs.values() for run in runs for word in run})
        numbers = {word: at for at, word in enumerate(known, start=1)}
        tables = {}
        for size, runs in sorted(self._runs.items()):
            ids = np.array([[numbers[word] for word in run] for run in runs], np.uint64)
            tables[size] = np.unique(np.concatenate([_hashes(row, size) for row in ids]))
        return tables, numbers


def _hashes(ids: Hashes, size: int) -> Hashes:
    """A number for each run of ``size`` ids; equal runs have equal ones."""
    with np.errstate(over="ignore"):
        hashes = np.zeros(len(ids) - size + 1, np.uint64)
        for at in range(size):
            hashes = hashes * np.uint64(_FACTOR) + ids[at : at + len(hashes)]
    return hashes


def plain_words(text: str) -> list[str]:
    """Words without case, punctuation and apostrophes; characters where no spaces are written."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(_SILENT.sub("", plain))
