"""The encoder: stem, layers, pool, quantiser, layers.

Shapes: B rows, F mel frames (100 Hz), T frames after the stem (50 Hz), C codes, D width, M bins.
Names of tensors are those of Whisper's encoder in Hugging Face transformers and of the released
GLM-4-Voice tokenizer (spec 1.5).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from interloom.config.speech_tokenizer import EncoderConfig, QuantizerConfig
from interloom.speech_tokenizer.layers import EncoderLayer, block_causal_mask, near_mask, sinusoids
from interloom.speech_tokenizer.quantizer import EmaCodebook


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoder makes of a batch.

    Attributes:
        states_BCD: Output of the last layer, normalised.
        valid_BC: Which positions are speech and not padding.
        codes: Codes of the valid positions in order, (N,); empty while the quantiser is off.
        commitment: Commitment loss; zero while the quantiser is off.
    """

    states_BCD: Tensor
    valid_BC: Tensor
    codes: Tensor
    commitment: Tensor


class Encoder(nn.Module):
    """Log-mel to codes, and codes to states that the heads read."""

    def __init__(self, config: EncoderConfig, quantizer: QuantizerConfig, dropout: float) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, kernel_size=3)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2)
        self.embed_positions = nn.Embedding(config.max_frames, width)
        self.embed_positions.weight.requires_grad = False
        self.embed_positions.weight.copy_(sinusoids(config.max_frames, width))
        self.layers = nn.ModuleList(EncoderLayer(config, dropout) for _ in range(config.num_layers))
        self.codebook = EmaCodebook(quantizer, width)
        num_positions = -(-config.max_frames // config.pool_kernel)
        self.embed_positions2 = nn.Embedding(num_positions, width)
        with torch.no_grad():
            self.embed_positions2.weight.copy_(self.embed_positions.weight[:num_positions])
        self.layer_norm = nn.LayerNorm(width)

    def below(self, mel_BFM: Tensor, num_codes_B: Tensor, *, first_code: int = 0) -> Tensor:
        """The vectors that are quantised, (B, C, D).

        Args:
            mel_BFM: F is ``2 k C`` for some C.
            num_codes_B: Codes of each row; what lies beyond is padding.
            first_code: The position that the first code is given.
        """
        config = self.config
        kernel = config.pool_kernel
        hidden: Tensor = self._stem(mel_BFM.transpose(1, 2)).transpose(1, 2)
        first = first_code * kernel
        hidden = hidden + self.embed_positions.weight[first : first + hidden.shape[1]]
        mask = self._visible_below(num_codes_B, hidden.shape[1], unit=1)
        for layer in self.layers[: config.pool_after_layer]:
            hidden = layer(hidden, mask)
        hidden = hidden.reshape(len(hidden), -1, kernel, config.d_model).mean(2)
        mask = self._visible_below(num_codes_B, hidden.shape[1], unit=kernel)
        for layer in self.layers[config.pool_after_layer : config.quantize_after_layer]:
            hidden = layer(hidden, mask)
        return hidden

    def above(self, vectors_BCD: Tensor, num_codes_B: Tensor, *, first_code: int = 0) -> Tensor:
        """States of quantised vectors, (B, C, D); positions see both sides."""
        length = vectors_BCD.shape[1]
        hidden = vectors_BCD + self.embed_positions2.weight[first_code : first_code + length]
        near = near_mask(length, scaled(self.config.window_frames, self.config.pool_kernel))
        mask = _visible(num_codes_B, near.to(num_codes_B.device))
        for layer in self.layers[self.config.quantize_after_layer :]:
            hidden = layer(hidden, mask)
        states: Tensor = self.layer_norm(hidden)
        return states

    def forward(self, mel_BFM: Tensor, num_codes_B: Tensor) -> Encoded:
        """Through the quantiser, once it is ready, to the states."""
        first = self._first_code(mel_BFM.shape[1])
        vectors = self.below(mel_BFM, num_codes_B, first_code=first)
        valid = valid_positions(num_codes_B, vectors.shape[1])
        codes = torch.zeros(0, dtype=torch.long, device=vectors.device)
        commitment = vectors.new_zeros(())
        if bool(self.codebook.is_ready):
            quantized = self.codebook(vectors[valid])
            codes, commitment = quantized.codes_N, quantized.commitment
            vectors = torch.zeros_like(vectors).masked_scatter(
                valid[:, :, None], quantized.vectors_ND
            )
        states = self.above(vectors, num_codes_B, first_code=first)
        return Encoded(states, valid, codes, commitment)

    def states_of(self, codes_BC: Tensor, num_codes_B: Tensor) -> Tensor:
        """The states that the heads read, from codes alone; (B, C, D)."""
        vectors = F.embedding(codes_BC, self.codebook.weight)
        valid = valid_positions(num_codes_B, codes_BC.shape[1])
        vectors = vectors.to(self.conv1.weight.dtype) * valid[:, :, None]
        return self.above(vectors, num_codes_B)

    def _first_code(self, num_mel_frames: int) -> int:
        """Where a batch begins in the position tables: 0, or anywhere if training asks for it."""
        free = self.config.max_tokens - num_mel_frames // (2 * self.config.pool_kernel)
        if not (self.training and self.config.shifts_positions) or free <= 0:
            return 0
        return int(torch.randint(free + 1, ()))

    def _visible_below(self, num_codes_B: Tensor, length: int, *, unit: int) -> Tensor:
        """The mask of a layer below the quantiser whose positions are ``unit`` frames long."""
        config = self.config
        allowed = block_causal_mask(length, scaled(config.block_frames, unit))
        allowed &= near_mask(length, scaled(config.window_frames, unit))
        num_B = num_codes_B * (config.pool_kernel // unit)
        return _visible(num_B, allowed.to(num_codes_B.device))

    def _stem(self, mel_BMF: Tensor) -> Tensor:
        """Two convolutions, the second with stride 2; (B, D, F / 2)."""
        padding = (2, 0) if self.config.is_stem_causal else (1, 1)
        hidden = F.gelu(self.conv1(F.pad(mel_BMF, padding)))
        return F.gelu(self.conv2(F.pad(hidden, padding)))


def valid_positions(num_B: Tensor, length: int) -> Tensor:
    """True at the first ``num_B`` positions of each row; (B, length)."""
    return torch.arange(length, device=num_B.device)[None, :] < num_B[:, None]


def _visible(num_B: Tensor, allowed_TT: Tensor) -> Tensor:
    """The attention mask (B, 1, T, T): allowed and valid.

    A padded position sees itself too, so that no row of the softmax is empty.
    """
    valid = valid_positions(num_B, len(allowed_TT))[:, None, None, :]
    itself = torch.eye(len(allowed_TT), dtype=torch.bool, device=num_B.device)
    return (allowed_TT & valid) | itself


def scaled(frames: int | None, unit: int) -> int | None:
    """A length in frames as one in positions of ``unit`` frames."""
    return None if frames is None else frames // unit
