"""What an evaluation collects: named estimates, set fingerprints, and what was heard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interloom.config.evaluation import EvaluationConfig
from interloom.evaluation.choice import ChosenSet
from interloom.evaluation.intervals import Estimate
from interloom.ports.catalog import Metric


@dataclass(frozen=True, slots=True)
class Judging:
    """How numbers become estimates."""

    config: EvaluationConfig
    seed: int


@dataclass(frozen=True, slots=True)
class Measure:
    """One named number.

    Attributes:
        name: Of the metric: ``tokenizer/wer``.
        estimate: Value, interval, items.
        suffix: Added to the name of the value alone: cloze calls it ``NAME/accuracy``.
    """

    name: str
    estimate: Estimate
    suffix: str = ""

    def to_metrics(self) -> tuple[Metric, ...]:
        """Value, bounds and number of items."""
        return self.estimate.to_metrics(self.name, value_suffix=self.suffix)


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
