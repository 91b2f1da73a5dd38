"""Whisper's transformer layers, with Hugging Face's names so that its weights load.

Shapes: B rows, T positions, S positions attended to, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name


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
        attended = F.scaled_dot_product_attention(
            self._heads(self.q_proj(query_BTD)),
            self._heads(self.k_proj(memory_BSD)),
            self._heads(self.v_proj(memory_BSD)),
            attn_mask=mask,
        )
        joined: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return joined

    def _heads(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, H, T, D/H)."""
        rows, length, width = x_BTD.shape
        heads = x_BTD.reshape(rows, length, self.num_heads, width // self.num_heads)
        return heads.transpose(1, 2)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, d_model: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d_model, num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, d_model)
        self.final_layer_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """One layer; shape (B, T, D)."""
        normed = self.self_attn_layer_norm(x_BTD)
        x_BTD = x_BTD + self.dropout(self.self_attn(normed, normed, mask))
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


def block_causal_mask(length: int, block: int | None) -> Tensor | None:
    """True where position i may see j: the past and its own block (spec 8.1); None sees all."""
    if block is None:
        return None
    index = torch.arange(length)
    return (index[None, :] <= index[:, None]) | (index[None, :] // block == index[:, None] // block)


_LOG_10000 = 9.210340371976184


def _causal(x_BTD: Tensor) -> Tensor:
    """True on and below the diagonal."""
    length = x_BTD.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=x_BTD.device).tril()
