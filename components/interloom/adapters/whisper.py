"""Whisper from a folder of weights, as Hugging Face publishes it."""

import hashlib
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from interloom.audio.mel import HOP_SAMPLES, SAMPLE_RATE_HZ, log_mel
from interloom.core.errors import DataError, MissingError

_PIECE_S = 30
_CHUNK_BYTES = 1 << 20


class WhisperTranscriber:
    """Transcribes on the processor, one recording at a time; safe for several threads.

    A multilingual Whisper tells the language by itself.
    """

    def __init__(self, folder: Path) -> None:
        """Load the weights and the tokenizer of a folder; nothing is fetched.

        Raises:
            MissingError: transformers is not installed, or the folder holds no Whisper.
            DataError: Its files are not those of a Whisper.
        """
        try:
            import torch
            from transformers import AutoTokenizer, WhisperForConditionalGeneration
        except ImportError as error:
            raise MissingError(
                "pseudo-labels need transformers; pip install 'interloom[train,asr]'"
            ) from error
        weights = sorted(folder.glob("*.safetensors"))
        if not weights or not (folder / "config.json").is_file():
            raise MissingError(
                f"{folder} holds no config.json with *.safetensors; expected a Whisper as Hugging "
                "Face publishes it, with its tokenizer.json"
            )
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = WhisperForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            ).eval()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise DataError(f"{folder} cannot be read as a Whisper: {error}") from error
        self._name = f"whisper-{_digest(weights)[:12]}"
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """By the first digits of the weights' sha256."""
        return self._name

    def transcribe(self, samples_S: NDArray[np.float32]) -> str:
        """What is said; empty if nothing is.

        Raises:
            DataError: The recording is longer than Whisper hears at a time.
        """
        import torch

        if len(samples_S) > _PIECE_S * SAMPLE_RATE_HZ:
            raise DataError(
                f"it lasts {len(samples_S) / SAMPLE_RATE_HZ:.1f} s, and Whisper hears at most "
                f"{_PIECE_S} s; cut it where nobody speaks"
            )
        mel = log_mel(
            samples_S,
            num_mel_bins=self._model.config.num_mel_bins,
            num_frames=_PIECE_S * SAMPLE_RATE_HZ // HOP_SAMPLES,
        )
        with self._lock, torch.no_grad():
            ids = self._model.generate(torch.from_numpy(mel.T[None].copy()))
        return str(self._tokenizer.decode(ids[0], skip_special_tokens=True)).strip()


def _digest(files: list[Path]) -> str:
    """The sha256 of files, one after the other."""
    found = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                found.update(chunk)
    return found.hexdigest()
