"""What begins at a token of speech: words, or the BPE tokens of their text, and silences.

It is carried beside the ids of a document.

Legend: C codes of an utterance, T tokens. A file holds a nibble a token, the first in the low half.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from interloom.core.errors import DataError

Word = Mapping[str, Any]
Ids = NDArray[np.int32]
Begins = NDArray[np.uint8]
"""Of ``Begin``, for each token."""


class Begin(IntEnum):
    """What begins with a token.

    The first code of an utterance begins something if its alignment is known. What is ``UNKNOWN``
    lies between words that were found, in an utterance of which some were not.
    """

    NOTHING = 0
    WORD = 1
    SILENCE = 2
    UNKNOWN = 3


class Aligner(Protocol):
    """Knows where patches may begin in an utterance."""

    def begins(
        self,
        name: str,
        codes_C: Ids,
        text: str,
        words: Sequence[Word] | None = None,
    ) -> Begins:
        """What begins at each code of an utterance, (C,).

        Args:
            name: Of the utterance, for errors.
            codes_C: What it sounds like.
            text: What is said in it; may be empty.
            words: Where, with ``start`` and ``stop`` in codes, as far as that was looked into.

        Raises:
            DataError: The words do not lie in the utterance.
        """
        ...


@dataclass(frozen=True, slots=True)
class WordAligner:
    """Words and silences.

    Attributes:
        find: The words that are found in codes, in order; some may be left out.
    """

    find: Callable[[Ids, Sequence[str]], Sequence[Word]]

    def begins(
        self, name: str, codes_C: Ids, text: str, words: Sequence[Word] | None = None
    ) -> Begins:
        """Where words start and stop."""
        said = text.split()
        found = self.find(codes_C, said) if words is None else words
        return begins_of(name, found, len(codes_C), is_complete=len(found) >= len(said))


@dataclass(frozen=True, slots=True)
class PieceAligner:
    """The BPE tokens of what is said, and silences (spec section 7.3, "BPE-aligned").

    Attributes:
        find: For each word the places of its tokens in codes, in order; none if it was not found.
    """

    find: Callable[[Ids, Sequence[str]], Sequence[Sequence[Word]]]

    def begins(
        self,
        name: str,
        codes_C: Ids,
        text: str,
        words: Sequence[Word] | None = None,  # noqa: ARG002 - times of words say none of tokens
    ) -> Begins:
        """Where tokens start, and where words stop."""
        found = self.find(codes_C, text.split())
        pieces = [piece for one in found for piece in one]
        return begins_of(name, pieces, len(codes_C), is_complete=all(found))


def begins_of(name: str, words: Sequence[Word], num_codes: int, *, is_complete: bool) -> Begins:
    """What begins at each code of an utterance, (C,); nothing anywhere without words.

    A word ends where the next begins, if they share a code; of words that begin at one code, one is
    counted.

    Args:
        name: Of the utterance, for errors.
        words: With ``start`` and ``stop`` in codes, in order.
        num_codes: C.
        is_complete: Whether these are all words that were said, so that all else is silence.

    Raises:
        DataError: The words do not lie in the utterance, or not in order.
    """
    begins = np.zeros(num_codes, np.uint8)
    if not words:
        return begins
    starts = np.array([word["start"] for word in words], np.int64)
    stops = np.array([word["stop"] for word in words], np.int64)
    if starts[0] < 0 or stops.max() > num_codes or (starts >= stops).any():
        raise DataError(
            f"utterance {name!r}: its words lie in codes [{starts.min()}, {stops.max()}), it has "
            f"{num_codes}; align it again with the tokenizer that made its codes"
        )
    if (np.diff(starts) < 0).any():
        raise DataError(f"utterance {name!r}: its words are not in order; align it again")
    gap = Begin.SILENCE if is_complete else Begin.UNKNOWN
    ends = np.minimum(stops, np.append(starts[1:], num_codes))
    begins[0] = gap
    begins[ends[ends < num_codes]] = gap
    begins[starts] = Begin.WORD
    return begins


def to_nibbles(begins_T: Begins) -> NDArray[np.uint8]:
    """For a file."""
    even = np.append(begins_T, np.zeros(len(begins_T) % 2, np.uint8)).astype(np.uint8)
    return even[::2] | (even[1::2] << np.uint8(4))


def from_nibbles(packed: NDArray[np.uint8], start: int, stop: int) -> Begins:
    """Of the tokens ``[start, stop)``."""
    held = packed[start >> 1 : (stop + 1) >> 1]
    both = np.stack([held & 15, held >> 4], axis=1).ravel()
    return both[start & 1 : (start & 1) + stop - start]
