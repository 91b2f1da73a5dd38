"""A recording as a source tells of it, before it is judged."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row before it is checked.

    Attributes:
        row: Where it stands.
        name: Its id.
        speaker: Who speaks.
        text: The transcript.
        licence: Its own, or empty.
        consent: What the speaker agreed to, or empty.
        seconds: How long it is, without decoding it; raises DataError if that cannot be said.
        read: Decodes it.
        words: Words with their samples, if known.
    """

    row: str
    name: str
    speaker: str
    text: str
    licence: str
    seconds: Callable[[], float]
    read: Callable[[], NDArray[np.float32]]
    words: tuple[dict[str, Any], ...] = ()
    consent: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that could not even be looked at."""

    row: str
    name: str
    reason: str
