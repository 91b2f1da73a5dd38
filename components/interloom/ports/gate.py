"""How data is judged before it is published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Column = Sequence[float] | Sequence[int] | Sequence[bool]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One thing that must hold of a column of a table of summaries.

    Attributes:
        name: What it claims, in words: "spans are disjoint".
        column: The column of the table.
        minimum: Lowest value allowed, or None.
        maximum: Highest value allowed, or None.
        mostly: Share of the rows for which it must hold.
    """

    name: str
    column: str
    minimum: float | None = None
    maximum: float | None = None
    mostly: float = 1.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The verdict on one expectation.

    Attributes:
        suite: The set of expectations it belongs to.
        expectation: Its name.
        success: Whether it held.
        observed: What was seen, in words.
        failed_rows: Ids of the rows that broke it, the first 1000 of them, in order.
        severity: ``fail`` stops the stage, ``warn`` only shows.
    """

    suite: str
    expectation: str
    success: bool
    observed: str
    failed_rows: tuple[str, ...] = ()
    severity: Literal["fail", "warn"] = "fail"


class QualityGate(Protocol):
    """Judges a table of per-row summaries against a suite."""

    def judge(
        self,
        suite: str,
        expectations: Sequence[Expectation],
        table: Mapping[str, Column],
        row_ids: Sequence[str],
    ) -> tuple[CheckResult, ...]:
        """One verdict an expectation, in their order.

        Raises:
            DataError: A column is missing, holds a NaN, or has another length than ``row_ids``.
        """
        ...
