"""Byte-pair encoding of speech codes: those that often follow each other are one unit.

Codes are letters and an utterance is a word, so that a unit may be as long as it is frequent.
Legend: C codes of an utterance.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, trainers

from interloom.mixture.alignment import Begin, Begins, Ids, Word

_FIRST_LETTER = 0x4E00  # far from spaces, digits and combining marks


class UnitBpe:
    """Cuts utterances into units (spec section 7.3): an ``Aligner``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def train(
        cls, utterances: Iterable[NDArray[np.integer[Any]]], *, codebook_size: int, num_units: int
    ) -> "UnitBpe":
        """Learn units from utterances; all codes are units too.

        Args:
            utterances: Codes of each.
            codebook_size: Number of codes.
            num_units: Units in all, codes included.
        """
        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=num_units,
            initial_alphabet=[chr(_FIRST_LETTER + code) for code in range(codebook_size)],
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(_written, utterances), trainer)
        return cls(tokenizer)

    def begins(
        self,
        name: str,  # noqa: ARG002
        codes_C: Ids,
        text: str,  # noqa: ARG002
        words: Sequence[Word] | None = None,  # noqa: ARG002
    ) -> Begins:
        """Each unit is a patch as a word is, whatever is said; (C,)."""
        begins = np.zeros(len(codes_C), np.uint8)
        starts = [start for start, _ in self._tokenizer.encode(_written(codes_C)).offsets]
        begins[starts] = Begin.WORD
        return begins


def _written(codes_C: NDArray[np.integer[Any]]) -> str:
    """Codes as letters."""
    return "".join(chr(_FIRST_LETTER + code) for code in codes_C.tolist())
