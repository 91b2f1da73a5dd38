"""Recordings: any common file to 16 kHz mono float32, and back to FLAC or WAV.

Shapes: S samples, C channels.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from interloom.core.errors import DataError

SAMPLE_RATE_HZ = 16_000

_CHUNK_S = 10
_DROPPED_S = 0.25  # decoders of lossy forms drop some milliseconds
_CUT_WAV = re.compile(r"data : (\d+) \(should be (\d+)\)")
_UNKNOWN_BYTES = 2**31 - 1  # what is written as it comes in states this much or more


def read_audio(source: Path | bytes) -> NDArray[np.float32]:
    """Read WAV, FLAC, OGG or MP3 at any rate, mixed down and resampled.

    Args:
        source: A file, or its bytes.

    Returns:
        Samples of shape (S,) at 16 kHz, mono, within [-1, 1] up to the resampler's ripple.

    Raises:
        DataError: It is not there, not audio, cut short, or holds no sample or no finite ones.
    """
    return np.concatenate(list(stream_audio(source)))


def stream_audio(source: Path | bytes) -> Iterator[NDArray[np.float32]]:
    """The samples of ``read_audio`` in chunks of about ten seconds, however long the recording.

    Args:
        source: A file, or its bytes.

    Yields:
        Samples of shape (S,).

    Raises:
        DataError: As ``read_audio``, at the chunk that shows it.
    """
    name = f"{len(source)} bytes" if isinstance(source, bytes) else source.name
    num_samples = 0
    try:
        with soundfile.SoundFile(
            io.BytesIO(source) if isinstance(source, bytes) else source
        ) as file:
            resampler = _Resampler(file.samplerate)
            while len(samples_SC := _next_chunk(file)):
                num_samples += len(samples_SC)
                check_finite(samples_SC, name)
                yield resampler.push(samples_SC.mean(axis=1))
            yield resampler.finish()
            missing = _stated_frames(file) - num_samples
            is_cut = missing > _DROPPED_S * file.samplerate
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot read {name} as audio: {error}") from error
    if num_samples == 0:
        raise DataError(f"{name} holds no sample")
    if is_cut:
        raise DataError(
            f"{name} ends after {num_samples} of the {num_samples + missing} samples that its "
            "header states; was it cut short? Fetch it again"
        )


def _next_chunk(file: soundfile.SoundFile) -> NDArray[np.float32]:
    """Some more samples, (S, C); none at the end.

    ``SoundFile.blocks`` would yield unwritten memory where a file ends too early.
    """
    samples_SC: NDArray[np.float32] = file.read(
        _CHUNK_S * file.samplerate, dtype="float32", always_2d=True
    )
    return samples_SC


def check_finite(samples: NDArray[np.float32], name: str = "the recording") -> None:
    """Refuse samples that are no numbers.

    Raises:
        DataError: One is NaN or infinite.
    """
    if not np.isfinite(samples).all():
        raise DataError(f"{name} holds a sample that is NaN or infinite; was it decoded rightly?")


def _stated_frames(file: soundfile.SoundFile) -> int:
    """How many samples the header promises; of a WAV, libsndfile tells it in its log only."""
    cut = _CUT_WAV.search(file.extra_info)
    if cut is None or int(cut[1]) >= _UNKNOWN_BYTES:
        return 0 if file.frames >= _UNKNOWN_BYTES else int(file.frames)
    return int(file.frames) * int(cut[1]) // max(1, int(cut[2]))


class _Resampler:
    """Mono samples to 16 kHz, chunk by chunk; samples at 16 kHz are left as they are."""

    def __init__(self, from_hz: int) -> None:
        self._stream = (
            None
            if from_hz == SAMPLE_RATE_HZ
            else soxr.ResampleStream(from_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
        )

    def push(self, samples_S: NDArray[np.float32]) -> NDArray[np.float32]:
        """What some samples give; the resampler holds a few back."""
        if self._stream is None:
            return samples_S
        given: NDArray[np.float32] = self._stream.resample_chunk(samples_S)
        return given

    def finish(self) -> NDArray[np.float32]:
        """What was held back."""
        nothing = np.zeros(0, np.float32)
        if self._stream is None:
            return nothing
        held: NDArray[np.float32] = self._stream.resample_chunk(nothing, last=True)
        return held


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
