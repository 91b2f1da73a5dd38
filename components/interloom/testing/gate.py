"""A quality gate in plain numpy."""

from collections.abc import Mapping, Sequence

import numpy as np

from interloom.ports.gate import CheckResult, Column, Expectation
from interloom.quality.columns import Numbers, checked_columns, verdict


class PlainGate:
    """Judges as Great Expectations does, without it."""

    def judge(
        self,
        suite: str,
        expectations: Sequence[Expectation],
        table: Mapping[str, Column],
        row_ids: Sequence[str],
    ) -> tuple[CheckResult, ...]:
        """One verdict an expectation, in their order."""
        columns = checked_columns(expectations, table, row_ids)
        return tuple(
            self._judge(suite, expectation, columns[expectation.column], row_ids)
            for expectation in expectations
        )

    def _judge(
        self, suite: str, expectation: Expectation, column: Numbers, row_ids: Sequence[str]
    ) -> CheckResult:
        """The verdict on one expectation."""
        low = -np.inf if expectation.minimum is None else expectation.minimum
        high = np.inf if expectation.maximum is None else expectation.maximum
        is_bad = (column < low) | (column > high)
        failed = [row_ids[at] for at in np.flatnonzero(is_bad).tolist()]
        held = 1 - len(failed) / len(column) if len(column) else 1.0
        return verdict(
            suite,
            expectation,
            success=held >= expectation.mostly,
            column=column,
            failed_rows=failed,
        )
