"""A request to end, such as a node that is taken back, noticed between steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class EndRequest:
    """Whether this process was told to end."""

    def __init__(self) -> None:
        self.is_made = False

    def make(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Note it."""
        self.is_made = True


@contextmanager
def listening() -> Iterator[EndRequest]:
    """Note SIGTERM instead of dying of it; the handler before is put back on leaving.

    Only a process's main thread can; in another thread nothing changes.
    """
    request = EndRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, request.make)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
