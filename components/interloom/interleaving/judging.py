"""The verdict on each shard: published, or in quarantine; and which of its rows are left out.

Checks judge rows, then the shard's sums; what they found is kept for the report of the whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from interloom.config.interleaving import FAILED_ROWS_KEPT, QualityLimits
from interloom.interleaving.making import Held, Made
from interloom.ports.gate import CheckResult, Expectation, QualityGate
from interloom.quality import interleaved, shards
from interloom.quality.interleaved import AlignmentCheck
from interloom.quality.shards import Sums, length_deviation

Verdict = Literal["published", "quarantined", "empty"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A shard and the verdict on it.

    Attributes:
        name: Of the shard.
        verdict: Whether its rows are published.
        kept: Rows that are.
        left_out: Rows that are not: single ones, or all.
        broken: Checks that a row broke, by its id.
        failed: Checks that the shard's sums broke.
        sums: What was judged.
        held: What the kept rows hold.
    """

    name: str
    verdict: Verdict
    kept: pa.Table
    left_out: pa.Table
    broken: Mapping[str, Sequence[str]]
    failed: Sequence[str]
    sums: Sums
    held: Held

    def to_dict(self, made: Made) -> dict[str, Any]:
        """For the report that is published with the data."""
        return {
            "attempts": made.tally.attempts,
            "broken_rows": len(self.broken),
            "documents": made.tally.documents,
            "failed": list(self.failed),
            "left_out": dict(sorted(made.tally.left_out.items())),
            "lengths_expected": list(made.lengths[1]),
            "lengths_seen": list(made.lengths[0]),
            "name": self.name,
            "outcomes": dict(sorted(made.tally.outcomes.items())),
            "rows": self.kept.num_rows,
            "speech_tokens": self.held.speech_tokens,
            "sums": dict(sorted(self.sums.items())),
            "text_tokens": self.held.text_tokens,
            "verdict": self.verdict,
        }


def parted(table: pa.Table, broken: Mapping[str, Sequence[str]]) -> tuple[pa.Table, pa.Table]:
    """The rows that are whole, and those that are not."""
    is_kept = np.array([one not in broken for one in table["id"].to_pylist()], bool)
    if is_kept.all():
        return table, table.slice(0, 0)
    keeps = (pa.array(is_kept, pa.bool_()), pa.array(~is_kept, pa.bool_()))
    return table.filter(keeps[0]), table.filter(keeps[1])


@dataclass(slots=True)
class _Found:
    """What one check of rows has seen in all shards."""

    rows: int = 0
    low: float = np.inf
    high: float = -np.inf
    failed: int = 0
    named: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ShardJudge:
    """Judges shard after shard, in bounded memory.

    Attributes:
        gate: Judges tables of summaries.
        check: Summarises rows.
        limits: Of the recipe.
        sums: Of the shards so far.
    """

    gate: QualityGate
    check: AlignmentCheck
    limits: QualityLimits
    sums: dict[str, Sums] = field(default_factory=dict)
    _found: dict[str, _Found] = field(default_factory=dict)
    _failed: dict[str, list[str]] = field(default_factory=dict)

    def judge(self, name: str, made: Made) -> Judged:
        """The verdict on one shard."""
        broken = self.broken_rows(made.table)
        rows = made.table.num_rows
        sums = dict(made.sums)
        sums["broken_rows"] = len(broken) / max(1, rows)
        sums["length_deviation"] = length_deviation(*(np.array(one) for one in made.lengths))
        failed = self._failed_sums(name, sums)
        kept, left_out = parted(made.table, broken)
        if failed:
            kept, left_out = made.table.slice(0, 0), made.table
        verdict: Verdict = "quarantined" if failed else "published" if rows else "empty"
        return Judged(name, verdict, kept, left_out, broken, failed, sums, Held.of(kept))

    def results(self, whole: Sums) -> tuple[CheckResult, ...]:
        """The verdicts on all rows, all shards, and the whole.

        What can be left out warns; what is of another origin, and what the whole must hold, fails.
        """
        rows = [
            self._row_result(interleaved.SUITE, one, "warn") for one in interleaved.EXPECTATIONS
        ]
        origin = [
            self._row_result(interleaved.IDENTITY_SUITE, one, "fail")
            for one in interleaved.IDENTITIES
        ]
        table = {
            one.column: [sums[one.column] for sums in self.sums.values()]
            for one in shards.shard_expectations(self.limits)
        }
        expected = shards.shard_expectations(self.limits)
        summed = self.gate.judge(shards.SUITE, expected, table, list(self.sums))
        total = self.gate.judge(
            shards.WHOLE_SUITE,
            shards.whole_expectations(self.limits),
            {name: [value] for name, value in whole.items()},
            ["all shards"],
        )
        warned = (replace(one, severity="warn") for one in summed)
        return tuple(chain(rows, origin, warned, total))

    def broken_rows(self, table: pa.Table) -> dict[str, list[str]]:
        """The checks that each broken row breaks."""
        row_ids = table["id"].to_pylist()
        summary = self.check.summarise(table)
        broken: dict[str, list[str]] = {}
        for suite, expectations in (
            (interleaved.SUITE, interleaved.EXPECTATIONS),
            (interleaved.IDENTITY_SUITE, interleaved.IDENTITIES),
        ):
            verdicts = self.gate.judge(suite, expectations, summary, row_ids)
            for one, verdict in zip(expectations, verdicts, strict=True):
                self._note(one, summary[one.column], verdict.failed_rows)
                for row_id in verdict.failed_rows:
                    broken.setdefault(row_id, []).append(one.name)
        return broken

    def _note(self, one: Expectation, column: Sequence[float], failed: Sequence[str]) -> None:
        """Add what a check has seen of a shard."""
        found = self._found.setdefault(one.name, _Found())
        found.rows += len(column)
        found.low = min(found.low, *column, np.inf)
        found.high = max(found.high, *column, -np.inf)
        found.failed += len(failed)
        found.named += failed[: FAILED_ROWS_KEPT - len(found.named)]

    def _failed_sums(self, name: str, sums: Sums) -> list[str]:
        """The checks that the sums of a shard break."""
        self.sums[name] = sums
        expected = shards.shard_expectations(self.limits)
        table = {one.column: [sums[one.column]] for one in expected}
        verdicts = self.gate.judge(shards.SUITE, expected, table, [name])
        return [verdict.expectation for verdict in verdicts if not verdict.success]

    def _row_result(
        self, suite: str, one: Expectation, severity: Literal["fail", "warn"]
    ) -> CheckResult:
        """The verdict of one check on the rows of all shards."""
        found = self._found.get(one.name, _Found())
        seen = f"values {found.low:g} to {found.high:g}" if found.rows else "no rows"
        return CheckResult(
            suite=suite,
            expectation=one.name,
            success=not found.failed,
            observed=f"{found.failed} of {found.rows} rows out of range; {seen}",
            failed_rows=tuple(found.named),
            severity=severity,
        )
