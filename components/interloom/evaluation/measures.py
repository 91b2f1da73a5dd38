"""What an evaluation collects: named estimates, set fingerprints, and what was heard."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interloom.config.evaluation import EvaluationConfig
from interloom.evaluation.choice import ChosenSet, Item, ItemScores
from interloom.evaluation.intervals import Estimate, bootstrap_ratio, wilson
from interloom.ports.catalog import Metric


@dataclass(frozen=True, slots=True)
class Judging:
    """How numbers become estimates."""

    config: EvaluationConfig
    seed: int

    def share(self, claims: Sequence[bool]) -> Estimate:
        """How many of the claims hold, with Wilson's interval."""
        return wilson(sum(claims), len(claims), self.config.confidence)

    def ratio(self, numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
        """A ratio of sums over items, with the bootstrap's interval."""
        return bootstrap_ratio(
            numerators,
            denominators,
            confidence=self.config.confidence,
            num_resamples=self.config.num_resamples,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class Measure:
    """One named number.

    Attributes:
        name: Of the metric: ``tokenizer/wer``.
        estimate: Value, interval, items.
        scores: Of each item, where two models can be compared item by item.
    """

    name: str
    estimate: Estimate
    scores: ItemScores | None = None

    def to_metrics(self) -> tuple[Metric, ...]:
        """Value, bounds and number of items."""
        return self.estimate.to_metrics(self.name)


def share_right(
    name: str, chosen: ChosenSet, rows: Sequence[Item], is_right: Sequence[bool], judging: Judging
) -> Measure:
    """The share of a set's rows that are right."""
    return Measure(name, judging.share(is_right), scores=chosen.scores(rows, is_right))


def by_group(
    name: str, chosen: ChosenSet, rows: Sequence[Item], is_right: Sequence[bool], judging: Judging
) -> Iterator[Measure]:
    """``share_right`` of all rows, then of each group of them."""
    yield share_right(name, chosen, rows, is_right, judging)
    for group in sorted({row["group"] for row in rows}):
        places = [place for place, row in enumerate(rows) if row["group"] == group]
        held, right = [rows[place] for place in places], [is_right[place] for place in places]
        yield share_right(f"{name}/{group}", chosen, held, right, judging)


@dataclass(frozen=True, slots=True)
class Findings:
    """What one part of the evaluation found.

    Attributes:
        measures: Its numbers.
        sets: What was measured, by fingerprint.
        details: Tables for ``report.json`` that are no metrics: transcripts, all cloze scores.
    """

    measures: tuple[Measure, ...] = ()
    sets: tuple[ChosenSet, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def merged(findings: Sequence[Findings]) -> Findings:
    """All parts as one; a detail's name belongs to one part."""
    return Findings(
        measures=tuple(measure for one in findings for measure in one.measures),
        sets=tuple(chosen for one in findings for chosen in one.sets),
        details={name: value for one in findings for name, value in one.details.items()},
    )
