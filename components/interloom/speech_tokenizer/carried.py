"""The encoder below the quantiser, block by block with carried state.

Shapes: B rows, F mel frames of a step, M bins, T frames after the stem, C codes, D width, H heads.

A position sees the past and its own block, so what was computed for a block stays right: the stem
carries its last inputs, each layer its keys and values. Arithmetic is that of ``Encoder.below``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from interloom.speech_tokenizer.encoder import Encoder, scaled, valid_positions
from interloom.speech_tokenizer.layers import EncoderLayer, Past

_KERNEL = 3  # of both convolutions of the stem


@dataclass(frozen=True, slots=True)
class Carried:
    """What the next block needs to know of the blocks before it.

    Attributes:
        num_frames: Frames (50 Hz) so far.
        mel_BFM: The last log-mels.
        stem_BDF: The last outputs of the first convolution.
        pasts: Of each layer below the quantiser.
    """

    num_frames: int
    mel_BFM: Tensor
    stem_BDF: Tensor
    pasts: tuple[Past, ...]

    def rows(self, count: int) -> "Carried":
        """The state of the first rows: the others have ended."""
        if count == len(self.mel_BFM):
            return self
        pasts = tuple(past.kept(count, past.keys.shape[2]) for past in self.pasts)
        return Carried(self.num_frames, self.mel_BFM[:count], self.stem_BDF[:count], pasts)


class CarriedEncoder:
    """Vectors step by step. An encoder that is not causal takes a whole piece in one step."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.config = encoder.config

    def start(self, num_rows: int) -> Carried:
        """The state before the first block of a piece."""
        config = self.config
        weight = self._encoder.conv1.weight
        heads = (num_rows, config.num_heads, 0, config.d_model // config.num_heads)
        pasts = tuple(Past(weight.new_zeros(heads), weight.new_zeros(heads)) for _ in self._layers)
        return Carried(
            0,
            weight.new_zeros(num_rows, _KERNEL - 1, config.num_mel_bins),
            weight.new_zeros(num_rows, config.d_model, _KERNEL - 1),
            pasts,
        )

    @torch.no_grad()
    def step(
        self, state: Carried, mels_BFM: NDArray[np.float32], counts_B: NDArray[np.int64]
    ) -> tuple[Tensor, Carried]:
        """The vectors of one more block.

        Args:
            state: After the blocks before it, all of them full.
            mels_BFM: A block, or less of it at an utterance's end.
            counts_B: How many codes of each row are not padding.

        Returns:
            Vectors of shape (B, C, D), and the state for a next block.
        """
        config = self.config
        device = state.mel_BFM.device
        mel_BFM = torch.from_numpy(mels_BFM).to(device)
        num_codes_B = torch.from_numpy(counts_B).to(device)
        if not config.is_streaming:
            return self._encoder.below(mel_BFM, num_codes_B), state
        hidden, mel, stem = self._stem(state, mel_BFM)
        stop = state.num_frames + hidden.shape[1]
        hidden = hidden + self._encoder.embed_positions.weight[state.num_frames : stop]
        pasts = list[Past]()
        for place, (layer, past) in enumerate(zip(self._layers, state.pasts, strict=True)):
            if place == config.pool_after_layer:
                hidden = self._pooled(hidden)
            unit = 1 if place < config.pool_after_layer else config.pool_kernel
            hidden, seen = self._layer(layer, hidden, past, num_codes_B, unit)
            pasts.append(seen)
        if config.pool_after_layer == len(self._layers):
            hidden = self._pooled(hidden)
        return hidden, Carried(stop, mel, stem, tuple(pasts))

    @property
    def _layers(self) -> list[EncoderLayer]:
        """Those below the quantiser."""
        layers = list(self._encoder.layers)[: self.config.quantize_after_layer]
        return [layer for layer in layers if isinstance(layer, EncoderLayer)]

    def _stem(self, state: Carried, mel_BFM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, T, D), and the last inputs of both convolutions."""
        mel = torch.cat([state.mel_BFM, mel_BFM], 1)
        first = F.gelu(self._encoder.conv1(mel.transpose(1, 2)))
        first = torch.cat([state.stem_BDF, first], 2)
        second = F.gelu(self._encoder.conv2(first))
        return second.transpose(1, 2), mel[:, 1 - _KERNEL :], first[:, :, 1 - _KERNEL :]

    def _pooled(self, hidden_BTD: Tensor) -> Tensor:
        """Means of ``pool_kernel`` frames."""
        kernel, width = self.config.pool_kernel, self.config.d_model
        return hidden_BTD.reshape(len(hidden_BTD), -1, kernel, width).mean(2)

    def _layer(
        self,
        layer: EncoderLayer,
        hidden_BTD: Tensor,
        past: Past,
        num_codes_B: Tensor,
        unit: int,
    ) -> tuple[Tensor, Past]:
        """One layer over the block; keeps as many positions as a later block can see."""
        length, seen = hidden_BTD.shape[1], past.keys.shape[2]
        window = scaled(self.config.window_frames, unit)
        device = hidden_BTD.device
        index = torch.arange(-seen, length, device=device)
        is_own = valid_positions(num_codes_B * (self.config.pool_kernel // unit), length)
        is_past = torch.ones(len(hidden_BTD), seen, dtype=torch.bool, device=device)
        distance = index[None, :] - index[seen:, None]
        near = distance.abs() <= (len(index) if window is None else window)
        allowed = near & torch.cat([is_past, is_own], 1)[:, None, None, :] | (distance == 0)
        out, both = layer.onwards(hidden_BTD, past, allowed)
        return out, both.kept(len(both.keys), self.config.max_frames if window is None else window)
