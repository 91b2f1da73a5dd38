"""Reading ahead in a thread: what is asked for next is made while the last is worked on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class ReadAhead(Generic[Made]):
    """A pure function of an index, whose next value is computed in a thread.

    The next index is taken to be as far from this one as this one is from the last. A wrong guess
    costs time and changes nothing.
    """

    def __init__(self, make: Callable[[int], Made]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._last: int | None = None
        self._next: tuple[int, Future[Made]] | None = None

    def __call__(self, index: int) -> Made:
        """The value at ``index``; an error in making it is raised here."""
        guessed = self._next
        stride = 1 if self._last is None else index - self._last
        made = (
            guessed[1].result()
            if guessed is not None and guessed[0] == index
            else self._make(index)
        )
        self._last = index
        self._next = None
        if stride > 0:
            self._next = (index + stride, self._pool.submit(self._make, index + stride))
        return made
