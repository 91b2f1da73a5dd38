"""The fixed part of a set that is measured, and its fingerprint."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from interloom.core.artifacts import canonical_json

Item = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChosenSet:
    """Items of one set.

    Attributes:
        name: The set's.
        items: In the order of their table.
        num_available: How many there were to choose from.
    """

    name: str
    items: tuple[Item, ...]
    num_available: int

    @property
    def digest(self) -> str:
        """Fingerprint of the items: two reports are comparable only if theirs are equal.

        Codes are left out: they are another tokenizer's answer to the same question.
        """
        kept = [{k: v for k, v in item.items() if k != "codes"} for item in self.items]
        return hashlib.sha256(canonical_json(kept)).hexdigest()

    def scores(
        self, rows: Iterable[Item], values: Iterable[float], *, asked: str = ""
    ) -> "ItemScores":
        """What came of some of the items, by their ids.

        Args:
            rows: The items.
            values: What came of each.
            asked: How, if they can be asked in several ways.
        """
        pairs = zip(rows, values, strict=True)
        digest = f"{self.digest} {asked}".rstrip()
        return ItemScores(digest, {row["id"]: float(value) for row, value in pairs})

    def to_dict(self) -> dict[str, str | int]:
        """For ``report.json``."""
        return {"digest": self.digest, "n": len(self.items), "available": self.num_available}


@dataclass(frozen=True, slots=True)
class ItemScores:
    """What came of each item of a set: 1 right and 0 wrong, or its word errors.

    Attributes:
        set_digest: The set's fingerprint, and how it was asked; scores on different sets, or of
            other ways, are not to be paired.
        by_id: Score of each item.
    """

    set_digest: str
    by_id: Mapping[str, float]


def choose(name: str, items: Iterable[Item], limit: int, *, seed: int) -> ChosenSet:
    """At most ``limit`` items, drawn from ``(seed, name)``; the same for every model."""
    available = list(items)
    return ChosenSet(name, tuple(drawn(available, limit, name=name, seed=seed)), len(available))


def drawn(available: Sequence[T], limit: int, *, name: str, seed: int) -> list[T]:
    """At most ``limit`` of them, in their order, drawn from ``(seed, name)``."""
    if len(available) <= limit:
        return list(available)
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))
    places = np.sort(rng.permutation(len(available))[:limit])
    return [available[place] for place in places]
