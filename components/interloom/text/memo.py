"""Encoding by words that were seen before: many times as fast as splitting and merging anew.

The pattern of byte-level BPE (GPT-2's) never joins a character to white space that follows it, so a
text may be cut wherever white space follows something else, and the ids of the pieces, one after
another, are the ids of the text. Pieces repeat, as words do; their ids are looked up.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Ids = NDArray[np.int32]
Counts = NDArray[np.int64]

_PIECE = re.compile(r"[ \n]?\S+|\s+\S*")
_SPACE_TO_SOME = re.compile(r"[\x1c-\x1f]")  # white space to Python, not to the tokenizer
_MAX_PIECES = 1 << 18
_MAX_LETTERS = 48  # longer pieces are not remembered


class WordMemo:
    """Remembers the ids of pieces of text. What it gives does not depend on what it remembers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[str, tuple[int, ...]] = {}

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Counts]:
        """The ids of all texts, one after another, and how many each text has."""
        pieces = [_pieces(text) for text in texts]
        new = {piece for some in pieces for piece in some if piece not in self._ids}
        found = self._learn(sorted(new)) if new else self._ids
        per_text = [list(chain.from_iterable(map(found.__getitem__, some))) for some in pieces]
        counts = np.fromiter(map(len, per_text), np.int64, len(per_text))
        flat = np.fromiter(chain.from_iterable(per_text), np.int32, int(counts.sum()))
        return flat, counts

    def _learn(self, new: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """The ids of all pieces with these new ones; short ones are kept for later calls."""
        encoded = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        learnt = {piece: tuple(one.ids) for piece, one in zip(new, encoded, strict=True)}
        kept = {piece: ids for piece, ids in learnt.items() if len(piece) <= _MAX_LETTERS}
        if len(kept) == len(new) and len(self._ids) + len(new) <= _MAX_PIECES:
            self._ids |= learnt
            return self._ids
        found = self._ids | learnt
        if len(self._ids) + len(kept) > _MAX_PIECES:
            self._ids = kept if len(kept) <= _MAX_PIECES else {}
        else:
            self._ids |= kept
        return found


def _pieces(text: str) -> list[str]:
    """A text, cut where nothing is joined; whole if Python sees other spaces than the tokenizer."""
    if _SPACE_TO_SOME.search(text):
        return [text]
    return _PIECE.findall(text)


def can_be_cut(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is plain byte-level BPE, whose texts may be cut before white space."""
    body = json.loads(tokenizer.to_str())
    splitter = body["pre_tokenizer"] or {}
    return (
        body["model"]["type"] == "BPE"
        and not body["model"].get("dropout")
        and body["normalizer"] is None
        and not body["added_tokens"]
        and splitter.get("type") == "ByteLevel"
        and splitter["use_regex"]
        and not splitter["add_prefix_space"]
    )
