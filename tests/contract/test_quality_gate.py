import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.adapters.gx_gate import GreatExpectationsGate
from interloom.core.errors import DataError
from interloom.ports.gate import Column, Expectation, QualityGate
from interloom.testing.gate import PlainGate

GREAT = GreatExpectationsGate()


@pytest.fixture(params=["plain", "great expectations"])
def gate(request: pytest.FixtureRequest) -> QualityGate:
    return GREAT if request.param == "great expectations" else PlainGate()


def test_a_row_out_of_range_is_named(gate: QualityGate) -> None:
    expected = [Expectation("small", "size", maximum=3)]

    [verdict] = gate.judge("suite", expected, {"size": [1, 5, 3]}, ["a", "b", "c"])

    assert (verdict.suite, verdict.expectation, verdict.success) == ("suite", "small", False)
    assert verdict.failed_rows == ("b",)
    assert verdict.observed == "1 of 3 rows out of range; values 1 to 5"


def test_limits_belong_to_the_range(gate: QualityGate) -> None:
    [verdict] = gate.judge("s", [Expectation("in", "x", 0, 1)], {"x": [0, 1]}, ["a", "b"])

    assert verdict.success


def test_mostly_lets_a_share_of_the_rows_fail(gate: QualityGate) -> None:
    table = {"x": [True, True, False, True]}
    expected = [
        Expectation("half", "x", minimum=1, mostly=0.5),
        Expectation("all but few", "x", minimum=1, mostly=0.9),
    ]

    verdicts = gate.judge("s", expected, table, list("abcd"))

    assert [verdict.success for verdict in verdicts] == [True, False]
    assert [verdict.failed_rows for verdict in verdicts] == [("c",), ("c",)]


def test_verdicts_come_in_the_order_of_the_expectations(gate: QualityGate) -> None:
    expected = [Expectation(f"x under {limit}", "x", maximum=limit) for limit in (5, 1, 3)]

    verdicts = gate.judge("s", expected, {"x": [2.0]}, ["a"])

    assert [verdict.expectation for verdict in verdicts] == ["x under 5", "x under 1", "x under 3"]
    assert [verdict.success for verdict in verdicts] == [True, False, True]


def test_no_rows_break_nothing(gate: QualityGate) -> None:
    [verdict] = gate.judge("s", [Expectation("in", "x", 0, 1)], {"x": []}, [])

    assert verdict.success
    assert verdict.observed == "0 of 0 rows out of range; no rows"


def test_at_most_a_thousand_rows_are_named(gate: QualityGate) -> None:
    ids = [str(at) for at in range(1200)]

    [verdict] = gate.judge("s", [Expectation("none", "x", maximum=0)], {"x": [1] * 1200}, ids)

    assert verdict.failed_rows == tuple(ids[:1000])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"y": [1]}, "no column 'x' to judge; the table has y"),
        ({"x": [1, 2]}, "column 'x' has 2 rows, but there are 1 row ids"),
        ({"x": [float("nan")]}, "column 'x' is not a number in row a"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    gate: QualityGate, table: dict[str, Column], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        gate.judge("s", [Expectation("in", "x", 0, 1)], table, ["a"])


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=20),
    st.integers(-5, 5),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_both_gates_agree(values: list[int], low: int, width: int, mostly: float) -> None:
    expected = [Expectation("in", "x", low, low + width, round(mostly, 2))]
    ids = [f"row-{at}" for at in range(len(values))]

    assert GREAT.judge("s", expected, {"x": values}, ids) == PlainGate().judge(
        "s", expected, {"x": values}, ids
    )
