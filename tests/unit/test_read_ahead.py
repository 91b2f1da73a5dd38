"""Reading ahead in a thread."""

import threading

import pytest

from interloom.core.errors import DataError
from interloom.mixture.ahead import ReadAhead


@pytest.mark.parametrize("indices", [[0, 1, 2, 3], [5, 9, 13, 17], [4, 4, 2, 7, 8, 20]])
def test_values_are_those_asked_for_in_any_order(indices: list[int]) -> None:
    ahead = ReadAhead(lambda index: index * index)

    assert [ahead(index) for index in indices] == [index * index for index in indices]


def test_the_next_value_is_made_by_another_thread_before_it_is_asked_for() -> None:
    made: dict[int, str] = {}
    is_made = threading.Event()

    def make(index: int) -> int:
        made[index] = threading.current_thread().name
        if index == 14:
            is_made.set()
        return index

    ahead = ReadAhead(make)
    ahead(2)
    ahead(8)

    assert is_made.wait(timeout=10)
    assert ahead(14) == 14
    assert made[14].startswith("read-ahead")
    assert made[8] == threading.main_thread().name


def test_an_error_is_raised_when_its_value_is_asked_for() -> None:
    def make(index: int) -> int:
        if index == 1:
            raise DataError("row 1 is damaged")
        return index

    ahead = ReadAhead(make)

    assert ahead(0) == 0
    with pytest.raises(DataError, match="row 1 is damaged"):
        ahead(1)
