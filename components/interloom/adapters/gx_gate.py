"""The quality gate on Great Expectations 1.x: an ephemeral context over pandas, nothing on disk."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from interloom.core.errors import ConfigError, MissingError
from interloom.ports.gate import CheckResult, Column, Expectation
from interloom.quality.columns import Numbers, checked_columns, verdict

_ROW_ID = "row_id"


class GreatExpectationsGate:
    """Judges tables of summaries by ``expect_column_values_to_be_between``."""

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
            MissingError: Great Expectations is not installed.
        """
        columns = checked_columns(expectations, table, row_ids)
        if not row_ids:  # pandas columns without rows have no type to compare
            return tuple(
                verdict(suite, one, success=True, column=columns[one.column], failed_rows=())
                for one in expectations
            )
        judged = self._validate(suite, expectations, columns, row_ids)
        return tuple(
            verdict(
                suite,
                expectation,
                success=judged[at].success,
                column=columns[expectation.column],
                failed_rows=_failed(judged[at].result),
            )
            for at, expectation in enumerate(expectations)
        )

    @cached_property
    def _batches(self) -> Any:
        """A batch definition that takes any data frame."""
        context = self._gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("summaries").add_dataframe_asset("summary")
        return asset.add_batch_definition_whole_dataframe("whole")

    @cached_property
    def _gx(self) -> Any:
        """The package, imported on first use: it takes seconds."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports
                import great_expectations
        except ImportError as error:
            raise MissingError(
                "the quality gate needs Great Expectations; pip install 'interloom[quality]'"
            ) from error
        return great_expectations

    def _validate(
        self,
        suite: str,
        expectations: Sequence[Expectation],
        columns: Mapping[str, Numbers],
        row_ids: Sequence[str],
    ) -> dict[int, Any]:
        """Great Expectations' result of each expectation, by its place."""
        import pandas as pd

        frame = pd.DataFrame({_ROW_ID: list(row_ids), **columns})
        batch = self._batches.get_batch(batch_parameters={"dataframe": frame})
        expected = [self._expect(one, place) for place, one in enumerate(expectations)]
        checks = self._gx.ExpectationSuite(name=suite, expectations=expected)
        options = {"result_format": "COMPLETE", "unexpected_index_column_names": [_ROW_ID]}
        result = batch.validate(checks, result_format=options)
        return {one.expectation_config.meta["place"]: one for one in result.results}

    def _expect(self, expectation: Expectation, place: int) -> Any:
        """One of ours in their words."""
        if expectation.minimum is None and expectation.maximum is None:
            raise ConfigError(
                f"expectation {expectation.name!r} has neither minimum nor maximum, so it says "
                "nothing; give it one"
            )
        return self._gx.expectations.ExpectColumnValuesToBeBetween(
            column=expectation.column,
            min_value=expectation.minimum,
            max_value=expectation.maximum,
            mostly=expectation.mostly,
            meta={"place": place},
        )


def _failed(result: Mapping[str, Any]) -> list[str]:
    """The ids of the rows that broke an expectation."""
    return [str(entry[_ROW_ID]) for entry in result["unexpected_index_list"] or []]
