"""Mel-cepstral distortion: how far decoded speech is from the recording, in decibels.

Kubichek (1993), "Mel-cepstral distance measure for objective speech quality assessment":
``10 sqrt(2) / ln 10 * ||c - c'||`` over cepstra 1 to 13 (0, the energy, is left out), averaged over
the path of dynamic time warping. The cepstra are those of the cosine series
``ln E_k = c_0 + 2 sum_d c_d cos(pi d (k + 1/2) / M)`` of the mel energies at 10 ms, so that the
distance is the root mean square difference of the smoothed spectra in dB. Published numbers are
mostly from other cepstra: compare only with the same measure.
Legend: F and G frames of the two signals, M mel bins.
"""

import math

import numpy as np
from numpy.typing import NDArray

from interloom.audio.mel import log_mel

NAME = "mcd13_dtw_db"
_NUM_CEPSTRA = 13
_SCALE_DB = 10 * math.sqrt(2) / math.log(10)

Floats = NDArray[np.float64]


def mel_cepstra(log_mel_FM: NDArray[np.floating]) -> Floats:
    """Cepstra 1 to 13 of natural-log mel energies, shape (F, 13)."""
    num_bins = log_mel_FM.shape[1]
    orders = np.arange(1, _NUM_CEPSTRA + 1)[:, None]
    positions = (np.arange(num_bins) + 0.5)[None, :]
    basis = np.cos(np.pi * orders * positions / num_bins) / num_bins
    cepstra: Floats = np.asarray(log_mel_FM, np.float64) @ basis.T
    return cepstra


def waveform_distortion(waveform: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """MCD in dB between two 16 kHz waveforms, from Whisper's 80 mel bins, its scaling undone."""
    to_natural_log = 4 * math.log(10)
    return mel_cepstral_distortion(
        log_mel(waveform) * to_natural_log, log_mel(other) * to_natural_log
    )


def mel_cepstral_distortion(
    log_mel_FM: NDArray[np.floating], other_GM: NDArray[np.floating]
) -> float:
    """MCD in dB between two signals, each given as natural-log mel energies.

    0 for equal signals, and the same both ways round.
    """
    first, second = mel_cepstra(log_mel_FM), mel_cepstra(other_GM)
    squared = (first**2).sum(1)[:, None] + (second**2).sum(1)[None, :] - 2 * first @ second.T
    return _SCALE_DB * _mean_along_best_path(np.sqrt(np.maximum(squared, 0.0)))


def _mean_along_best_path(cost_FG: Floats) -> float:
    """The least sum of costs over monotone paths from corner to corner, over the path's length.

    Filled by antidiagonals, so that the work is in numpy. Of equally cheap steps the diagonal one.
    """
    num_rows, num_columns = cost_FG.shape
    total = np.full((num_rows + 1, num_columns + 1), np.inf)
    steps = np.zeros((num_rows + 1, num_columns + 1))
    total[0, 0] = 0.0
    for diagonal in range(2, num_rows + num_columns + 1):
        i = np.arange(max(1, diagonal - num_columns), min(num_rows, diagonal - 1) + 1)
        j = diagonal - i
        came = np.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
        lengths = np.stack([steps[i - 1, j - 1], steps[i - 1, j], steps[i, j - 1]])
        best = np.argmin(came, axis=0)
        pick = np.arange(len(i))
        total[i, j] = came[best, pick] + cost_FG[i - 1, j - 1]
        steps[i, j] = lengths[best, pick] + 1
    return float(total[-1, -1] / steps[-1, -1])
