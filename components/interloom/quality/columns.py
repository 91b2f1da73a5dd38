"""What every gate does alike: take the columns it needs, and put its verdict into words."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from interloom.config.interleaving import FAILED_ROWS_KEPT
from interloom.core.errors import DataError
from interloom.ports.gate import CheckResult, Column, Expectation

Numbers = NDArray[np.float64]


def checked_columns(
    expectations: Sequence[Expectation], table: Mapping[str, Column], row_ids: Sequence[str]
) -> dict[str, Numbers]:
    """The columns that the expectations name, as numbers.

    Raises:
        DataError: One is missing, holds a NaN, or has another length than ``row_ids``.
    """
    columns = {}
    for name in sorted({expectation.column for expectation in expectations}):
        if name not in table:
            raise DataError(f"no column {name!r} to judge; the table has {', '.join(table)}")
        column = np.asarray(table[name], np.float64)
        if len(column) != len(row_ids):
            raise DataError(
                f"column {name!r} has {len(column)} rows, but there are {len(row_ids)} row ids"
            )
        if np.isnan(column).any():
            at = int(np.flatnonzero(np.isnan(column))[0])
            raise DataError(f"column {name!r} is not a number in row {row_ids[at]}")
        columns[name] = column
    return columns


def verdict(
    suite: str,
    expectation: Expectation,
    *,
    success: bool,
    column: Numbers,
    failed_rows: Sequence[str],
) -> CheckResult:
    """A verdict in words that every gate uses."""
    seen = f"values {column.min():g} to {column.max():g}" if len(column) else "no rows"
    return CheckResult(
        suite=suite,
        expectation=expectation.name,
        success=success,
        observed=f"{len(failed_rows)} of {len(column)} rows out of range; {seen}",
        failed_rows=tuple(failed_rows[:FAILED_ROWS_KEPT]),
    )
