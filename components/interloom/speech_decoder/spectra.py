"""Spectra of waveforms in torch, so that losses reach through them.

Shapes: B rows, S samples, F frames, N bins of a transform, M mel bands.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from interloom.audio.mel import mel_filters

POWER_FLOOR = 1e-7  # 80 dB under loud speech, where the tokenizer's front-end clips as well
MAGNITUDE_FLOOR = 1e-2


class LogMel(nn.Module):
    """Natural logarithm of the mel amplitude: one frame a hop, exactly.

    Frame ``f`` is centred on the middle of samples ``[f * hop, (f + 1) * hop)``; the waveform
    counts as silent outside itself.
    """

    window: Tensor
    bands: Tensor

    def __init__(self, *, num_mels: int, num_fft: int, hop: int, sample_rate_hz: int) -> None:
        super().__init__()
        self.hop = hop
        self.register_buffer("window", torch.hann_window(num_fft), persistent=False)
        bands = mel_filters(num_mels, num_fft, sample_rate_hz).astype(np.float32)
        self.register_buffer("bands", torch.from_numpy(bands), persistent=False)

    def forward(self, waveform_BS: Tensor) -> Tensor:
        """The frames, (B, S / hop, M), of a waveform whose S is a multiple of the hop."""
        spectrum_BNF = transform(waveform_BS, self.window, self.hop)
        power_BFN = (spectrum_BNF.real.square() + spectrum_BNF.imag.square()).transpose(1, 2)
        return 0.5 * torch.log(torch.clamp(power_BFN @ self.bands, min=POWER_FLOOR))


def transform(waveform_BS: Tensor, window: Tensor, hop: int) -> Tensor:
    """Short-time Fourier transform with one frame a hop.

    Returns:
        Complex spectra of shape (B, N, S / hop).
    """
    margin = (window.numel() - hop) // 2
    padded = functional.pad(waveform_BS, (margin, window.numel() - hop - margin))
    return torch.stft(padded, window.numel(), hop, window=window, center=False, return_complex=True)


def overlap_add(spectrum_BFN: Tensor, window: Tensor, hop: int) -> Tensor:
    """The inverse of ``transform``: the waveform (B, F * hop) whose spectra are nearest to these.

    The window's length is a multiple of the hop, at least two hops.
    """
    frames = torch.fft.irfft(spectrum_BFN, n=window.numel(), dim=-1) * window
    weight = window.square().expand(1, frames.shape[1], -1)
    summed, weights = _add_shifted(frames, hop), _add_shifted(weight, hop)
    margin = (window.numel() - hop) // 2
    stop = margin + frames.shape[1] * hop
    return summed[:, margin:stop] / weights[:, margin:stop]


def _add_shifted(frames_BFL: Tensor, hop: int) -> Tensor:
    """Sum frames, each a hop after the one before: (B, (F - 1) * hop + L)."""
    num_rows, _, length = frames_BFL.shape
    num_parts = length // hop
    parts = frames_BFL.reshape(num_rows, -1, num_parts, hop)
    padded = [
        functional.pad(parts[:, :, part], (0, 0, part, num_parts - 1 - part))
        for part in range(num_parts)
    ]
    return torch.stack(padded).sum(dim=0).reshape(num_rows, -1)


def spectral_loss(heard_BS: Tensor, wanted_BS: Tensor, num_fft: int) -> Tensor:
    """How far two waveforms' magnitudes differ at one window length.

    The sum of the spectral convergence and of the mean distance of log-magnitudes
    (Yamamoto et al., 2020, equations 4 and 5). No absolute phase is asked for: what makes
    magnitudes right after the overlap-add is that neighbouring frames agree in phase.
    """
    window = torch.hann_window(num_fft, device=heard_BS.device)
    heard = transform(heard_BS, window, num_fft // 4)
    wanted = transform(wanted_BS, window, num_fft // 4)
    heard_size, wanted_size = _magnitude(heard), _magnitude(wanted)
    distance: Tensor = torch.linalg.vector_norm(wanted_size - heard_size)
    convergence: Tensor = distance / torch.linalg.vector_norm(wanted_size)
    return convergence + (heard_size.log() - wanted_size.log()).abs().mean()


def _magnitude(spectrum: Tensor) -> Tensor:
    """Magnitudes from a floor up, with a finite gradient at zero."""
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.clamp(power, min=MAGNITUDE_FLOOR**2).sqrt()
