"""Whisper's log-mel. Shapes: S audio samples at 16 kHz, F frames of 10 ms, M mel bins.

Framing is counted from samples alone: S samples give ``ceil(S / 160)`` frames or as many as the
caller asks for, the audio being continued by silence. So a frame depends neither on batches nor
on what the recording is padded with.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
FFT_SAMPLES = 400
HOP_SAMPLES = 160

LOOK_AHEAD_SAMPLES = FFT_SAMPLES // 2 - HOP_SAMPLES  # 2.5 ms after a frame's own 10 ms

_MARGIN_FRAMES = 2  # that reach into a frame's window
_CHUNK_FRAMES = 4096
_SLICE_FRAMES = 8

Waveform = NDArray[np.float32]
Mel = NDArray[np.float32]


def log_mel(
    waveform_S: Waveform,
    *,
    num_mel_bins: int = 80,
    num_frames: int | None = None,
) -> Mel:
    """Whisper's features, equal to those of its published extractor.

    Args:
        waveform_S: 16 kHz mono in [-1, 1].
        num_mel_bins: M; 80, or 128 as in Whisper large-v3.
        num_frames: F; frames past the audio are those of silence. Default ``ceil(S / 160)``.

    Returns:
        Features of shape (F, M): log10 of the power, at most 8 below the utterance's loudest
        value, scaled as Whisper does.
    """
    frames = -(-len(waveform_S) // HOP_SAMPLES) if num_frames is None else num_frames
    if frames == 0:
        return np.zeros((0, num_mel_bins), np.float32)
    padded = _framed(waveform_S, frames)
    filters = mel_filters(num_mel_bins)
    log_FM = np.empty((frames, num_mel_bins), np.float32)
    for start in range(0, frames, _CHUNK_FRAMES):
        stop = min(frames, start + _CHUNK_FRAMES)
        log_FM[start:stop] = _log_power(padded[start:stop], filters)
    above_floor(log_FM, np.float32(-np.inf))
    return log_FM


def above_floor(log_FM: Mel, loudest: np.float32) -> np.float32:
    """Cut log-powers off 8 below the loudest value so far and scale them, in place.

    Returns:
        The loudest value, these included.
    """
    loudest = max(loudest, log_FM.max())
    np.maximum(log_FM, loudest - np.float32(8), out=log_FM)
    log_FM += np.float32(4)
    log_FM /= np.float32(4)
    return loudest


def log_power(waveform_S: Waveform, *, num_mel_bins: int, first: int, stop: int) -> Mel:
    """Log10 of the mel power of frames ``[first, stop)`` of an utterance, without a floor.

    Frames need ``LOOK_AHEAD_SAMPLES`` beyond their end; what is not there is silence.

    Args:
        waveform_S: From the utterance's first sample.
        num_mel_bins: M.
        first: A multiple of 8, so that the bits are those that all frames at once would have.
        stop: The end.
    """
    begin = max(0, first - _MARGIN_FRAMES)
    windows = _framed(waveform_S[begin * HOP_SAMPLES :], stop - begin)
    return _log_power(windows[first - begin :], mel_filters(num_mel_bins))


def _framed(waveform_S: Waveform, num_frames: int) -> NDArray[np.float32]:
    """Overlapping windows of shape (F, 400); frame i is centred on sample 160 i."""
    half = FFT_SAMPLES // 2
    audio = np.zeros(max(num_frames * HOP_SAMPLES, half + 1) + half, np.float32)
    kept = min(len(waveform_S), num_frames * HOP_SAMPLES + LOOK_AHEAD_SAMPLES)
    audio[:kept] = waveform_S[:kept]
    reflected = np.concatenate([audio[half:0:-1], audio])
    windows = np.lib.stride_tricks.sliding_window_view(reflected, FFT_SAMPLES)
    return windows[::HOP_SAMPLES][:num_frames]


def _log_power(windows_FN: NDArray[np.float32], filters: NDArray[np.float64]) -> Mel:
    """Log10 of the mel power of some windows.

    The product runs over slices that are too small for BLAS to share among threads, so that the
    bits depend on no thread count.
    """
    window = np.hanning(FFT_SAMPLES + 1)[:-1]  # periodic
    spectrum = np.fft.rfft(windows_FN * window, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    slices = -(-len(power) // _SLICE_FRAMES)
    sliced = np.zeros((slices * _SLICE_FRAMES, power.shape[1]))
    sliced[: len(power)] = power
    mel = (sliced.reshape(slices, _SLICE_FRAMES, -1) @ filters).reshape(-1, filters.shape[1])
    return np.log10(np.maximum(mel[: len(power)], 1e-10)).astype(np.float32)


@cache
def mel_filters(
    num_mel_bins: int, num_fft: int = FFT_SAMPLES, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> NDArray[np.float64]:
    """Slaney's mel filters with area 1 from 0 Hz to half the rate, (num_fft / 2 + 1, M)."""
    bins_hz = np.linspace(0, sample_rate_hz / 2, num_fft // 2 + 1)
    edges_hz = _edges_hz(num_mel_bins, sample_rate_hz)
    widths = np.diff(edges_hz)
    slopes = edges_hz[None, :] - bins_hz[:, None]
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    filters = np.maximum(0, np.minimum(rising, falling))
    return filters * (2 / (edges_hz[2:] - edges_hz[:-2]))


def at_speed(mel_FM: Mel, speed: float, *, tract: float = 1.0) -> Mel:
    """Log-mels of a recording that is played faster or slower, as a tape is: pitch moves with it.

    What was recorded above half the rate is not known, and is as quiet as the quietest value.

    Args:
        mel_FM: At least one frame.
        speed: Above 1 is faster.
        tract: Above 1 is a shorter vocal tract, at the same pace: all frequencies are so many
            times as high (Jaitly and Hinton 2013).

    Returns:
        About ``F / speed`` frames, one at least; values between frames and bins are interpolated.
    """
    frames, bins = mel_FM.shape
    edges_hz = _edges_hz(bins, SAMPLE_RATE_HZ)
    mels = _hz_to_mel(edges_hz)
    source_M = _hz_to_mel(edges_hz[1:-1] / (speed * tract)) / mels[1] - 1
    source_F = (np.arange(max(1, round(frames / speed))) + 0.5) * speed - 0.5
    moved = _between(_between(mel_FM, source_F).T, source_M).T
    moved[:, source_M > bins - 0.5] = mel_FM.min()
    return moved


def _between(values_PN: Mel, at_Q: NDArray[np.float64]) -> Mel:
    """Rows at fractional places, those beyond an end as at the end; (Q, N)."""
    place_Q = at_Q.clip(0, len(values_PN) - 1)
    first_Q = place_Q.astype(np.int64)
    share_Q = (place_Q - first_Q).astype(np.float32)[:, None]
    nexts = values_PN[np.minimum(first_Q + 1, len(values_PN) - 1)]
    between: Mel = values_PN[first_Q] * (1 - share_Q) + nexts * share_Q
    return between


def _edges_hz(num_mel_bins: int, sample_rate_hz: int) -> NDArray[np.float64]:
    """Where the filters begin and end; the middle of filter m is edge m + 1."""
    highest = float(_hz_to_mel(np.array(sample_rate_hz / 2)))
    return _mel_to_hz(np.linspace(0, highest, num_mel_bins + 2))


def _hz_to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's scale: linear to 1 kHz (15 mels), then 27 mels for a factor of 6.4."""
    logarithmic = 15.0 + np.log(np.maximum(hz, 1000.0) / 1000.0) * 27.0 / math.log(6.4)
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, logarithmic)


def _mel_to_hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse, with the linear part below 1 kHz (15 mels)."""
    logarithmic = 1000.0 * np.exp((mels - 15.0) * math.log(6.4) / 27.0)
    return np.where(mels < 15.0, mels * 200.0 / 3.0, logarithmic)
