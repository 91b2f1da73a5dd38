"""Moonshine, a small English speech recogniser whose weights come with its package."""

import threading
from importlib import metadata, resources

import numpy as np
from numpy.typing import NDArray

from interloom.core.errors import MissingError

_SAMPLE_RATE_HZ = 16_000


class MoonshineTranscriber:
    """Transcribes on the processor, one recording at a time; safe for several threads."""

    def __init__(self) -> None:
        """Load the weights of the package.

        Raises:
            MissingError: The package is not installed.
        """
        try:
            from moonshine_voice import ModelArch, Transcriber
        except ImportError as error:
            raise MissingError(
                "pseudo-labels need Moonshine; pip install 'interloom[asr]'"
            ) from error
        folder = resources.files("moonshine_voice") / "assets" / "tiny-en"
        self._model = Transcriber(model_path=str(folder), model_arch=ModelArch.TINY)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Package, version and size."""
        return f"moonshine-tiny-{metadata.version('moonshine-voice')}"

    def transcribe(self, samples_S: NDArray[np.float32]) -> str:
        """What is said; empty if nothing is."""
        with self._lock:
            found = self._model.transcribe_without_streaming(samples_S.tolist(), _SAMPLE_RATE_HZ)
        return " ".join(line.text.strip() for line in found.lines).strip()
