"""Mel frames to a waveform, in the manner of Vocos (Siuzdak, 2023).

Shapes: B rows, F mel frames, D channels, M mel bands, N bins, S samples.
"""

import torch
from torch import Tensor, nn

from interloom.config.speech_decoder import VocoderConfig
from interloom.speech_decoder.blocks import ConvNextBlock
from interloom.speech_decoder.spectra import overlap_add, transform

_LOUDEST = 5.0  # log-magnitude of a bin at most: full scale in a window of this kind is below it


class Vocoder(nn.Module):
    """Predicts log-magnitude and phase of each frame and inverts the transform."""

    window: Tensor

    def __init__(self, config: VocoderConfig, *, num_mels: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.refine_iterations = config.refine_iterations
        self.widen = nn.Conv1d(
            num_mels, config.width, config.kernel_size, padding=config.kernel_size // 2
        )
        self.first_norm = nn.LayerNorm(config.width)
        self.blocks = nn.Sequential(
            *(ConvNextBlock(config.width, config.kernel_size) for _ in range(config.num_layers))
        )
        self.last_norm = nn.LayerNorm(config.width)
        self.magnitude_head = nn.Linear(config.width, config.num_fft // 2 + 1)
        self.phase_head = nn.Linear(config.width, config.num_fft // 2 + 1)
        self.register_buffer("window", torch.hann_window(config.num_fft), persistent=False)

    def forward(self, mel_BFM: Tensor) -> Tensor:
        """The waveform, (B, F * hop), of these frames."""
        return overlap_add(self.spectrum(mel_BFM), self.window, self.hop)

    def spectrum(self, mel_BFM: Tensor) -> Tensor:
        """The predicted complex spectra, (B, F, N)."""
        hidden_BFD = self.first_norm(self.widen(mel_BFM.transpose(1, 2)).transpose(1, 2))
        hidden_BFD = self.last_norm(self.blocks(hidden_BFD))
        magnitude = torch.exp(torch.clamp(self.magnitude_head(hidden_BFD), max=_LOUDEST))
        phase = self.phase_head(hidden_BFD)
        return torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase))

    def speak(self, mel_BFM: Tensor) -> Tensor:
        """The waveform as it is heard: predicted, then refined."""
        predicted_BFN = self.spectrum(mel_BFM)
        return refined(predicted_BFN, self.window, self.hop, self.refine_iterations)


def refined(spectrum_BFN: Tensor, window: Tensor, hop: int, num_iterations: int) -> Tensor:
    """The waveform of spectra whose magnitudes are kept and whose phases are made to agree.

    Each pass goes to the waveform and back and keeps the phases (Griffin and Lim, 1984).

    Returns:
        Samples of shape (B, F * hop).
    """
    magnitude_BFN = spectrum_BFN.abs()
    for _ in range(num_iterations):
        waveform_BS = overlap_add(spectrum_BFN, window, hop)
        heard_BFN = transform(waveform_BS, window, hop).transpose(1, 2)
        spectrum_BFN = magnitude_BFN * heard_BFN / torch.clamp(heard_BFN.abs(), min=1e-8)
    return overlap_add(spectrum_BFN, window, hop)
