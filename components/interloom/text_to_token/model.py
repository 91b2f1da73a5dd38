"""A decoder-only transformer from text to speech codes (P1, sections 3 and 8.3 of the method).

Positions are given, not counted: they may be places in time, in which a code stands at its frame
and a piece of text at the frame at which it is expected to begin, or those of a plain sequence, as
a base model has learnt them.

Shapes: B = batch, L = positions, D = width, H = query heads, N = key and value heads, E = width of
a head, K = codes; K + 1 outputs, the last one is the end.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from interloom.training.hugging_face import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape(Architecture):
    """What fixes the tensors of the model, and the constants of its arithmetic.

    Its blocks are those of a checkpoint. D is its ``width``, H ``num_heads``, N ``num_kv_heads``, E
    ``head_width``.

    Attributes:
        num_ids: Rows of the embedding: joint vocabulary, then one a voice.
        num_codes: K.
        rotary_base: Of the rotary wavelengths.
        norm_epsilon: Added to the mean square in RMSNorm.
        dropout: On the residual branches.
    """

    num_ids: int
    num_codes: int
    rotary_base: float = 1000.0
    norm_epsilon: float = 1e-6
    dropout: float = 0.0

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Columns of queries, keys and values."""
        kv_size = self.num_kv_heads * self.head_width
        return (self.num_heads * self.head_width, kv_size, kv_size)


class Block(nn.Module):
    """Attention and a gated layer, each behind a norm and beside the residual stream."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        width = shape.width
        self.shape = shape
        self.attention_norm = nn.RMSNorm(width, eps=shape.norm_epsilon)
        self.query_key_value = nn.Linear(width, sum(shape.qkv_sizes), bias=shape.has_qkv_bias)
        self.attention_out = nn.Linear(shape.qkv_sizes[0], width, bias=False)
        self.gate_norm = nn.RMSNorm(width, eps=shape.norm_epsilon)
        self.gate_up = nn.Linear(width, 2 * shape.ffn_size, bias=False)
        self.down = nn.Linear(shape.ffn_size, width, bias=False)
        self.dropout = nn.Dropout(shape.dropout)
        if shape.has_qk_norm:
            self.query_norm = nn.RMSNorm(shape.head_width, eps=shape.norm_epsilon)
            self.key_norm = nn.RMSNorm(shape.head_width, eps=shape.norm_epsilon)

    def forward(self, x_BLD: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """One block; ``turn`` holds the rotary cosines and sines, (B, 1, L, E / 2)."""
        query, key, value = self._heads(self.query_key_value(self.attention_norm(x_BLD)))
        seen = functional.scaled_dot_product_attention(
            _rotate(query, turn),
            _rotate(key, turn),
            value,
            is_causal=True,  # in order, not in time
            enable_gqa=self.shape.num_kv_heads != self.shape.num_heads,
        )
        x_BLD = x_BLD + self.dropout(self.attention_out(seen.transpose(1, 2).flatten(2)))
        gate, up = self.gate_up(self.gate_norm(x_BLD)).chunk(2, dim=-1)
        out: Tensor = x_BLD + self.dropout(self.down(functional.silu(gate) * up))
        return out

    def _heads(self, qkv_BLX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, L, E), keys and values (B, N, L, E)."""
        parts = torch.split(qkv_BLX, list(self.shape.qkv_sizes), dim=-1)
        query, key, value = (
            torch.unflatten(part, -1, (-1, self.shape.head_width)).transpose(1, 2) for part in parts
        )
        if self.shape.has_qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, value


class TextToTokenModel(nn.Module):
    """Voice, text, begin, codes: logits of the next code or the end."""

    inverse_wavelengths: Tensor

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.num_ids, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.head = nn.Linear(shape.width, shape.num_codes + 1, bias=False)
        half = shape.head_width // 2
        wavelengths = shape.rotary_base ** (-torch.arange(half) / half)
        self.register_buffer("inverse_wavelengths", wavelengths, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @property
    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return [cast("Block", block) for block in self.blocks]

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all matrices from ``generator``; branches into the residual stream begin small."""
        deep = (2 * self.shape.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = deep if name.endswith(("attention_out.weight", "down.weight")) else 1.0
                fan_in = 1.0 if name.startswith("embedding") else parameter.shape[1]
                spread = 0.5 if name.startswith("embedding") else fan_in**-0.5
                with torch.no_grad():
                    parameter.normal_(0.0, spread * scale, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids_BL: Tensor, places_BL: Tensor, wanted_BL: Tensor) -> Tensor:
        """Logits at the wanted positions, (number wanted, K + 1); attention is causal."""
        angle = places_BL[:, None, :, None] * self.inverse_wavelengths
        turn = (angle.cos(), angle.sin())
        x_BLD = self.embedding(ids_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, turn)
        logits: Tensor = self.head(self.norm(x_BLD[wanted_BL]))
        return logits


def _rotate(x_BHLE: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding, halves paired."""
    cosine, sine = turn
    first, second = x_BHLE.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
