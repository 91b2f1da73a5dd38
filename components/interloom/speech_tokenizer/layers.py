"""Whisper's transformer layers, with Hugging Face's names so that its weights load.

Shapes: B rows, T positions, S positions attended to, D width, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from interloom.config.speech_tokenizer import EncoderConfig


@dataclass(frozen=True, slots=True)
class Past:
    """Keys and values of positions that were seen, each (B, H, S, D/H)."""

    keys: Tensor
    values: Tensor

    def kept(self, rows: int, positions: int) -> "Past":
        """Of the first rows, the last positions."""
        return Past(*(one[:rows, :, max(0, one.shape[2] - positions) :] for one in self.both))

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        return self.keys, self.values


class Attention(nn.Module):
    """Multi-head attention; the key projection has no bias, as in Whisper."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, query_BTD: Tensor, memory_BSD: Tensor, mask: Tensor | None) -> Tensor:
        """Attend; ``mask`` is True where attending is allowed, broadcast to (B, H, T, S)."""
        return self._attend(query_BTD, self._keys(memory_BSD), mask)

    def onwards(self, x_BTD: Tensor, past: Past, mask: Tensor) -> tuple[Tensor, Past]:
        """Attend to what was kept of earlier positions and to these; keep both."""
        new = self._keys(x_BTD)
        keys = Past(torch.cat([past.keys, new.keys], 2), torch.cat([past.values, new.values], 2))
        return self._attend(x_BTD, keys, mask), keys

    def _keys(self, memory_BSD: Tensor) -> Past:
        """Keys and values of some positions."""
        return Past(self._heads(self.k_proj(memory_BSD)), self._heads(self.v_proj(memory_BSD)))

    def _attend(self, query_BTD: Tensor, memory: Past, mask: Tensor | None) -> Tensor:
        """Attention to keys and values."""
        query = self._heads(self.q_proj(query_BTD))
        attended = F.scaled_dot_product_attention(query, memory.keys, memory.values, attn_mask=mask)
        joined: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return joined

    def _heads(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, H, T, D/H)."""
        rows, length, width = x_BTD.shape
        heads = x_BTD.reshape(rows, length, self.num_heads, width // self.num_heads)
        return heads.transpose(1, 2)


class Nearness(nn.Module):
    """A learned bias of each head for each distance, up to ``reach`` either way.

    Whisper has none. It starts with heads that look behind, here, ahead and around, as a
    convolution would: from scratch on an hour of speech, attention does not find its neighbours
    by absolute positions alone in any reasonable time.
    """

    def __init__(self, num_heads: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        distance = torch.arange(-reach, reach + 1).float()
        heads = torch.arange(num_heads)
        centre = torch.tensor([-2.0, 0.0, 2.0, 0.0])[heads % 4]
        slope = torch.tensor([1.0, 2.0, 1.0, 0.25])[heads % 4]
        self.weight = nn.Parameter(-slope[:, None] * (distance - centre[:, None]).abs())

    def forward(self, mask_B1TS: Tensor) -> Tensor:
        """The bias where attending is allowed, minus infinity elsewhere; (B, H, T, S).

        The last of S positions are the T that attend.
        """
        length, seen = mask_B1TS.shape[-2:]
        index = torch.arange(seen, device=mask_B1TS.device)
        distance = index[None, :] - index[seen - length :, None]
        bias_HTS = self.weight[:, distance.clamp(-self.reach, self.reach) + self.reach]
        return bias_HTS.masked_fill(~mask_B1TS, -torch.inf)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, config: EncoderConfig, dropout: float) -> None:
        super().__init__()
        d_model, ffn_dim = config.d_model, config.ffn_dim
        self.self_attn = Attention(d_model, config.num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, d_model)
        self.final_layer_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        reach = config.relative_reach
        self.nearness = None if reach is None else Nearness(config.num_heads, reach)

    def forward(self, x_BTD: Tensor, mask: Tensor) -> Tensor:
        """One layer; shape (B, T, D)."""
        normed = self.self_attn_layer_norm(x_BTD)
        return self._finish(x_BTD, self.self_attn(normed, normed, self._biased(mask)))

    def onwards(self, x_BTD: Tensor, past: Past, mask_B1TS: Tensor) -> tuple[Tensor, Past]:
        """One layer over the positions that follow ``past``."""
        normed = self.self_attn_layer_norm(x_BTD)
        attended, seen = self.self_attn.onwards(normed, past, self._biased(mask_B1TS))
        return self._finish(x_BTD, attended), seen

    def _biased(self, mask: Tensor) -> Tensor:
        """The mask, with the heads' preferences if they have any."""
        return mask if self.nearness is None else self.nearness(mask)

    def _finish(self, x_BTD: Tensor, attended_BTD: Tensor) -> Tensor:
        """What follows attention."""
        x_BTD = x_BTD + self.dropout(attended_BTD)
        hidden = F.gelu(self.fc1(self.final_layer_norm(x_BTD)))
        out: Tensor = x_BTD + self.dropout(self.fc2(hidden))
        return out


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, attention to the encoder, and feed-forward."""

    def __init__(self, d_model: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d_model, num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.encoder_attn = Attention(d_model, num_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(d_model)
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, d_model)
        self.final_layer_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, memory_mask: Tensor | None) -> Tensor:
        """One layer; positions see those before them."""
        normed = self.self_attn_layer_norm(x_BTD)
        x_BTD = x_BTD + self.dropout(self.self_attn(normed, normed, _causal(normed)))
        normed = self.encoder_attn_layer_norm(x_BTD)
        x_BTD = x_BTD + self.dropout(self.encoder_attn(normed, memory_BSD, memory_mask))
        hidden = F.gelu(self.fc1(self.final_layer_norm(x_BTD)))
        out: Tensor = x_BTD + self.dropout(self.fc2(hidden))
        return out


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's fixed position table, shape (length, width)."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float64) / max(1, half - 1)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * torch.exp(-steps * _LOG_10000)
    table = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    return F.pad(table, (0, width - 2 * half))


def near_mask(length: int, window: int | None) -> Tensor:
    """True where two positions are at most ``window`` apart; None sees all."""
    index = torch.arange(length)
    return (index[None, :] - index[:, None]).abs() <= (length if window is None else window)


def block_causal_mask(length: int, block: int | None) -> Tensor:
    """True where position i may see j: the past and its own block (spec 8.1); None sees all."""
    if block is None:
        return torch.ones(length, length, dtype=torch.bool)
    index = torch.arange(length)
    return (index[None, :] <= index[:, None]) | (index[None, :] // block == index[:, None] // block)


_LOG_10000 = 9.210340371976184


def _causal(x_BTD: Tensor) -> Tensor:
    """True on and below the diagonal."""
    length = x_BTD.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=x_BTD.device).tril()
