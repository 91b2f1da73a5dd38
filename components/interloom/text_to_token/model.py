"""A decoder-only transformer from text to speech codes (P1, sections 3 and 8.3 of the method).

Positions are places in time: a code stands at its frame, a piece of text at the frame at which it
is expected to begin. What is being said is then always near in position, whatever the speed.

Shapes: B = batch, L = positions, D = width, H = heads, E = width of a head, S = slots,
C = positions that a cache holds, K = codes; K + 1 outputs, the last one is the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What fixes the tensors of the model.

    Attributes:
        num_ids: Rows of the embedding: joint vocabulary, then one a voice.
        num_codes: K.
        width: D.
        num_layers: Blocks.
        num_heads: H.
        dropout: On the residual branches.
    """

    num_ids: int
    num_codes: int
    width: int
    num_layers: int
    num_heads: int
    dropout: float = 0.0


class Cache:
    """Keys and values of ``num_slots`` sequences of up to ``capacity`` positions."""

    def __init__(
        self, shape: ModelShape, *, num_slots: int, capacity: int, device: torch.device
    ) -> None:
        head_width = shape.width // shape.num_heads
        size = (shape.num_layers, num_slots, shape.num_heads, capacity, head_width)
        self.keys = torch.zeros(size, device=device)
        self.values = torch.zeros(size, device=device)
        self._slots = torch.arange(num_slots, device=device)
        self._places = torch.arange(capacity, device=device)

    def attend(self, layer: int, at_S: Tensor) -> Attend:
        """Write one key and value a slot at ``at_S``, then look at all up to there."""

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.keys[layer, self._slots, :, at_S] = key[:, :, 0]
            self.values[layer, self._slots, :, at_S] = value[:, :, 0]
            seen = (self._places <= at_S[:, None])[:, None, None]
            return functional.scaled_dot_product_attention(
                query, self.keys[layer], self.values[layer], attn_mask=seen
            )

        return attend


class Block(nn.Module):
    """Attention and a gated layer, each behind a norm and beside the residual stream."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        width, hidden = shape.width, 16 * round(shape.width * 8 / 3 / 16)
        self.num_heads = shape.num_heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.gate_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x_BLD: Tensor, turn: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """One block; ``turn`` holds the rotary cosines and sines, (B, 1, L, E / 2)."""
        batch, length, width = x_BLD.shape
        qkv = self.query_key_value(self.attention_norm(x_BLD))
        qkv = qkv.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        seen = attend(_rotate(query, turn), _rotate(key, turn), value)
        joined = seen.transpose(1, 2).reshape(batch, length, width)
        x_BLD = x_BLD + self.dropout(self.attention_out(joined))
        gate, up = self.gate_up(self.gate_norm(x_BLD)).chunk(2, dim=-1)
        out: Tensor = x_BLD + self.dropout(self.down(functional.silu(gate) * up))
        return out


class TextToTokenModel(nn.Module):
    """Voice, text, begin, codes: logits of the next code or the end."""

    inverse_wavelengths: Tensor

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.num_ids, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.head = nn.Linear(shape.width, shape.num_codes + 1, bias=False)
        half = shape.width // shape.num_heads // 2
        self.register_buffer(
            "inverse_wavelengths", 1000.0 ** (-torch.arange(half) / half), persistent=False
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights from ``generator``; branches into the residual stream begin small."""
        deep = (2 * self.shape.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = deep if name.endswith(("attention_out.weight", "down.weight")) else 1.0
                fan_in = 1.0 if name.startswith("embedding") else parameter.shape[1]
                spread = 0.5 if name.startswith("embedding") else fan_in**-0.5
                with torch.no_grad():
                    parameter.normal_(0.0, spread * scale, generator=generator)

    def forward(self, ids_BL: Tensor, places_BL: Tensor, wanted_BL: Tensor) -> Tensor:
        """Logits at the wanted positions, (number wanted, K + 1); attention is causal."""
        turn = self._turn(places_BL)
        x_BLD = self.embedding(ids_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, turn, _causal)
        logits: Tensor = self.head(self.norm(x_BLD[wanted_BL]))
        return logits

    @torch.no_grad()
    def step(self, ids_S: Tensor, places_S: Tensor, at_S: Tensor, *, cache: Cache) -> Tensor:
        """Logits after one more id in every slot, (S, K + 1)."""
        turn = self._turn(places_S[:, None])
        x_S1D = self.embedding(ids_S[:, None])
        for layer, block in enumerate(self.blocks):
            x_S1D = block(x_S1D, turn, cache.attend(layer, at_S))
        logits: Tensor = self.head(self.norm(x_S1D[:, 0]))
        return logits

    def _turn(self, places_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of rotary positions."""
        angle = places_BL[:, None, :, None] * self.inverse_wavelengths
        return angle.cos(), angle.sin()


def _causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each position sees itself and those before it in order, not in time."""
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def _rotate(x_BHLE: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding, halves paired."""
    cosine, sine = turn
    first, second = x_BHLE.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
