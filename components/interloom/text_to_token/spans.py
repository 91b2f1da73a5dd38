"""What is asked of synthesis and what comes back."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SpanRequest:
    """A stretch of text to speak.

    Attributes:
        span_id: Names the random stream: the same id, text and seed give the same codes.
        text: What is said.
        attempt: The first attempt to make; a higher one speaks the span anew.
        voice: Who speaks; None leaves it to the configuration, which names one or draws.
    """

    span_id: str
    text: str
    attempt: int = 0
    voice: str | None = None


@dataclass(frozen=True, slots=True)
class SpanResult:
    """What became of a span.

    Attributes:
        span_id: That of the request.
        codes: Speech codes without markers, shape (F,); empty if the span was refused.
        reason: Why the last attempt was refused; empty if it was accepted.
        attempts: How many were made.
        refusals: Why each refused attempt was, in order.
        error_rate: Word error rate of the last attempt as it was read back; None if it was not.
        drawn_tokens: Codes of all attempts, kept or thrown away.
        unsaid: The first word that the model cannot say; empty if it knows them all.
    """

    span_id: str
    codes: Codes = field(compare=False, repr=False)
    reason: str
    attempts: int
    refusals: tuple[str, ...] = ()
    error_rate: float | None = None
    drawn_tokens: int = 0
    unsaid: str = ""

    @property
    def accepted(self) -> bool:
        """Whether some attempt passed all guards."""
        return not self.reason

    @property
    def explanation(self) -> str:
        """The reason, and the word that it is for."""
        return f"{self.reason} ({self.unsaid!r})" if self.unsaid else self.reason
