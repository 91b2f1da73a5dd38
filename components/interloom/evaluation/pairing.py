"""Two models on the same items: which of the two is better, and is that more than luck?

Both models answer the same items, so their intervals may overlap where their difference is beyond
doubt. The exact sign test looks at the items whose scores differ; for right and wrong it is
McNemar's exact test (McNemar 1947).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy.stats import binomtest

from interloom.evaluation.choice import ItemScores
from interloom.evaluation.measures import Measure

SCORES = "scores.json"  # the shard of an evaluation that holds the scores of its items


@dataclass(frozen=True, slots=True)
class Paired:
    """One number of two models, item by item.

    Attributes:
        num_items: That both have a score of.
        num_higher: Whose second score is higher.
        num_lower: Whose second score is lower.
    """

    num_items: int
    num_higher: int
    num_lower: int

    @property
    def p_value(self) -> float:
        """How likely a split at least this uneven is if neither model is better (two-sided)."""
        differing = self.num_higher + self.num_lower
        return float(binomtest(self.num_higher, differing).pvalue) if differing else 1.0


def paired(first: ItemScores, second: ItemScores) -> Paired | None:
    """The items that both were measured on; None if the sets differ or share none."""
    common = first.by_id.keys() & second.by_id.keys()
    if first.set_digest != second.set_digest or not common:
        return None
    changes = [second.by_id[item] - first.by_id[item] for item in common]
    higher, lower = sum(one > 0 for one in changes), sum(one < 0 for one in changes)
    return Paired(len(common), higher, lower)


def scores_to_json(measures: Iterable[Measure]) -> str:
    """The scores of all items of all measures that have them; ``scores_from_json`` reads it."""
    body = {
        one.name: {"set": one.scores.set_digest, "items": dict(one.scores.by_id)}
        for one in measures
        if one.scores is not None
    }
    return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)


def scores_from_json(text: str | bytes) -> Mapping[str, ItemScores]:
    """Scores by the name of their measure."""
    body = json.loads(text)
    return {name: ItemScores(held["set"], held["items"]) for name, held in body.items()}
