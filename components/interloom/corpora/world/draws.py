"""Choices that depend on a seed and a name alone, in whatever order they are made."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """A stream of choices: Philox keyed by the seed and the words that name the stream."""

    def __init__(self, seed: int, *name: str | int) -> None:
        digest = hashlib.sha256("/".join(map(str, (seed, *name))).encode()).digest()
        key = np.frombuffer(digest[:16], dtype=np.uint64)
        self._generator = np.random.Generator(np.random.Philox(key=key))

    def below(self, limit: int) -> int:
        """An integer in ``[0, limit)``."""
        return int(self._generator.integers(limit))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """``count`` different options, in a drawn order."""
        return self.shuffled(options)[:count]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in a drawn order."""
        return [options[index] for index in self._generator.permutation(len(options))]


def hashed_share(text: str, seed: int) -> float:
    """A number in [0, 1) that belongs to this text: below a share, it is held out."""
    digest = hashlib.sha256(f"{seed}/{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
