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
from interloom.speech_tokenizer.layers import EncoderLayer, block_causal_mask, sinusoids
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
        self.layers = nn.ModuleList(
            EncoderLayer(width, config.num_heads, config.ffn_dim, dropout)
            for _ in range(config.num_layers)
        )
        self.codebook = EmaCodebook(quantizer, width)
        self.embed_positions2 = nn.Embedding(config.max_tokens, width)
        with torch.no_grad():
            self.embed_positions2.weight.copy_(self.embed_positions.weight[: config.max_tokens])
        self.layer_norm = nn.LayerNorm(width)

    def below(self, mel_BFM: Tensor, num_codes_B: Tensor) -> Tensor:
        """The vectors that are quantised, (B, C, D).

        Args:
            mel_BFM: F is ``2 k C`` for some C.
            num_codes_B: Codes of each row; what lies beyond is padding.
        """
        config = self.config
        kernel = config.pool_kernel
        hidden: Tensor = self._stem(mel_BFM.transpose(1, 2)).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        mask = _visible(num_codes_B * kernel, hidden.shape[1], config.block_frames)
        for layer in self.layers[: config.pool_after_layer]:
            hidden = layer(hidden, mask)
        hidden = hidden.reshape(len(hidden), -1, kernel, config.d_model).mean(2)
        block = None if config.block_frames is None else config.block_frames // kernel
        mask = _visible(num_codes_B, hidden.shape[1], block)
        for layer in self.layers[config.pool_after_layer : config.quantize_after_layer]:
            hidden = layer(hidden, mask)
        return hidden

    def above(self, vectors_BCD: Tensor, num_codes_B: Tensor) -> Tensor:
        """States of quantised vectors, (B, C, D); every position sees all valid ones."""
        hidden = vectors_BCD + self.embed_positions2.weight[: vectors_BCD.shape[1]]
        mask = _visible(num_codes_B, hidden.shape[1], None)
        for layer in self.layers[self.config.quantize_after_layer :]:
            hidden = layer(hidden, mask)
        states: Tensor = self.layer_norm(hidden)
        return states

    def forward(self, mel_BFM: Tensor, num_codes_B: Tensor) -> Encoded:
        """Through the quantiser, once it is ready, to the states."""
        vectors = self.below(mel_BFM, num_codes_B)
        valid = valid_positions(num_codes_B, vectors.shape[1])
        codes = torch.zeros(0, dtype=torch.long, device=vectors.device)
        commitment = vectors.new_zeros(())
        if bool(self.codebook.is_ready):
            quantized = self.codebook(vectors[valid])
            codes, commitment = quantized.codes_N, quantized.commitment
            vectors = torch.zeros_like(vectors).masked_scatter(
                valid[:, :, None], quantized.vectors_ND
            )
        return Encoded(self.above(vectors, num_codes_B), valid, codes, commitment)

    def encode(self, mel_BFM: Tensor, num_codes_B: Tensor) -> Tensor:
        """Codes of a batch, (B, C); meaningless beyond each row's own."""
        vectors = self.below(mel_BFM, num_codes_B)
        return self.codebook.nearest(vectors.flatten(0, 1)).reshape(vectors.shape[:2])

    def states_of(self, codes_BC: Tensor, num_codes_B: Tensor) -> Tensor:
        """The states that the heads read, from codes alone; (B, C, D)."""
        vectors = F.embedding(codes_BC, self.codebook.weight)
        valid = valid_positions(num_codes_B, codes_BC.shape[1])
        vectors = vectors.to(self.conv1.weight.dtype) * valid[:, :, None]
        return self.above(vectors, num_codes_B)

    def _stem(self, mel_BMF: Tensor) -> Tensor:
        """Two convolutions, the second with stride 2; (B, D, F / 2)."""
        padding = (2, 0) if self.config.is_stem_causal else (1, 1)
        hidden = F.gelu(self.conv1(F.pad(mel_BMF, padding)))
        return F.gelu(self.conv2(F.pad(hidden, padding)))


def valid_positions(num_B: Tensor, length: int) -> Tensor:
    """True at the first ``num_B`` positions of each row; (B, length)."""
    return torch.arange(length, device=num_B.device)[None, :] < num_B[:, None]


def _visible(num_B: Tensor, length: int, block: int | None) -> Tensor:
    """The attention mask (B, 1, T, T): valid and, below the quantiser, block-causal.

    A padded position sees position 0, so that no row of the softmax is empty.
    """
    visible = valid_positions(num_B, length)[:, None, None, :]
    causal = block_causal_mask(length, block)
    if causal is not None:
        visible = visible & causal.to(num_B.device)
    return visible.expand(-1, -1, length, -1) if causal is None else visible
