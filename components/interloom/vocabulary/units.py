"""Byte-pair encoding of speech codes: those that often follow each other are one unit.

What P2 compares its patches to (spec section 7.3). Codes are letters and an utterance is a word, so
that a unit may be as long as it is frequent. Legend: C codes of an utterance, U its units.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Numbers = NDArray[np.integer[Any]]
Ids = NDArray[np.int32]

_FIRST_LETTER = 0xF0000  # two planes of private use hold 131,072 codes


@dataclass(frozen=True)
class SpeechUnits:
    """Units of codes: first each code alone, then what pairs of earlier units make.

    Attributes:
        codebook_size: Number of codes.
        merges: Pairs of units that become one, in the order in which they are looked for.
    """

    codebook_size: int
    merges: tuple[tuple[int, int], ...]

    @classmethod
    def train(
        cls, utterances: Iterable[Numbers], *, codebook_size: int, num_units: int
    ) -> "SpeechUnits":
        """Learn units; the same utterances give the same units.

        Args:
            utterances: Codes of each.
            codebook_size: Number of codes.
            num_units: Units in all, codes included; fewer if no more pairs are seen twice.
        """
        from tokenizers import Tokenizer, models, trainers

        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=num_units,
            min_frequency=2,
            initial_alphabet=[chr(_FIRST_LETTER + code) for code in range(codebook_size)],
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(_written, utterances), trainer)
        model = json.loads(tokenizer.to_str())["model"]
        number = model["vocab"]
        return cls(
            codebook_size, tuple((number[left], number[right]) for left, right in model["merges"])
        )

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self._spelled)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Codes of each unit."""
        return np.array([len(letters) for letters in self._spelled], np.int64)

    def units(self, codes_C: Numbers) -> Ids:
        """Units (U,) that are these codes."""
        return np.array(self._tokenizer.encode(_written(codes_C)).ids, np.int32)

    def codes(self, units_U: Numbers) -> Ids:
        """Codes (C,) of units."""
        letters = "".join(self._spelled[unit] for unit in units_U.tolist())
        return (np.frombuffer(letters.encode("utf-32-le"), "<u4") - _FIRST_LETTER).astype(np.int32)

    @cached_property
    def _spelled(self) -> tuple[str, ...]:
        """The codes of each unit as letters; two pairs that spell the same are one unit."""
        spelled = [chr(_FIRST_LETTER + code) for code in range(self.codebook_size)]
        known = set(spelled)
        for left, right in self.merges:
            letters = spelled[left] + spelled[right]
            if letters not in known:
                known.add(letters)
                spelled.append(letters)
        return tuple(spelled)

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer, models

        spelled = self._spelled
        vocab = {letters: unit for unit, letters in enumerate(spelled)}
        merges = [(spelled[left], spelled[right]) for left, right in self.merges]
        return Tokenizer(models.BPE(vocab=vocab, merges=merges))


def _written(codes_C: Numbers) -> str:
    """Codes as letters."""
    return "".join(chr(_FIRST_LETTER + code) for code in codes_C.tolist())
