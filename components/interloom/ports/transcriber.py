"""What writes down what is said in recordings that come without a transcript."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Transcriber(Protocol):
    """A speech recogniser of any make; its transcripts are pseudo-labels."""

    @property
    def name(self) -> str:
        """Which one, with its version: the ``labelled_by`` of each row that it labelled."""
        ...

    def transcribe(self, samples_S: NDArray[np.float32]) -> str:
        """What is said in 16 kHz mono samples; empty if nothing is."""
        ...
