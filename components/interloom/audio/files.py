"""Recordings: any common file to 16 kHz mono float32, and back to FLAC or WAV.

Shapes: S samples, C channels.
"""

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from interloom.core.errors import DataError

SAMPLE_RATE_HZ = 16_000


def read_audio(source: Path | bytes) -> NDArray[np.float32]:
    """Read WAV, FLAC, OGG or MP3 at any rate, mixed down and resampled.

    Args:
        source: A file, or its bytes.

    Returns:
        Samples of shape (S,) at 16 kHz, mono, within [-1, 1] up to the resampler's ripple.

    Raises:
        DataError: It is not there, not audio, or holds no sample.
    """
    name = f"{len(source)} bytes" if isinstance(source, bytes) else source.name
    try:
        samples_SC, rate_hz = soundfile.read(
            io.BytesIO(source) if isinstance(source, bytes) else source,
            dtype="float32",
            always_2d=True,
        )
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot read {name} as audio: {error}") from error
    if len(samples_SC) == 0:
        raise DataError(f"{name} holds no sample")
    return resample(samples_SC.mean(axis=1), from_hz=rate_hz, to_hz=SAMPLE_RATE_HZ)


def audio_seconds(source: Path) -> float:
    """The length that the file's header states, without reading its samples.

    Raises:
        DataError: It is not there or not audio.
    """
    try:
        return float(soundfile.info(source).duration)
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot read {source.name} as audio: {error}") from error


def resample(samples_S: NDArray[np.float32], *, from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Change the sample rate (soxr, high quality); the same rate gives the same samples."""
    if from_hz == to_hz:
        return np.ascontiguousarray(samples_S, dtype=np.float32)
    resampled: NDArray[np.float32] = soxr.resample(samples_S, from_hz, to_hz, quality="HQ")
    return resampled.astype(np.float32, copy=False)


def to_pcm16(samples_S: NDArray[np.float32]) -> NDArray[np.int16]:
    """Round to 16 bit, clipping what is beyond [-1, 1]."""
    scaled = np.rint(samples_S.astype(np.float64) * 32768.0)
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def encode_flac(samples_S: NDArray[np.float32], *, sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """16 bit FLAC; equal samples give equal bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, to_pcm16(samples_S), sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def write_flac(
    path: Path, samples_S: NDArray[np.float32], *, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> None:
    """Write 16 bit FLAC."""
    path.write_bytes(encode_flac(samples_S, sample_rate_hz=sample_rate_hz))


def write_wav(
    path: Path, samples_S: NDArray[np.float32], *, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> None:
    """Write 16 bit WAV."""
    buffer = io.BytesIO()
    soundfile.write(buffer, to_pcm16(samples_S), sample_rate_hz, format="WAV", subtype="PCM_16")
    path.write_bytes(buffer.getvalue())
