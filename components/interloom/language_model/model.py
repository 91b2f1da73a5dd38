"""A compact Llama-family transformer over joint ids.

Legend: B rows, T tokens, S keys, H query heads, G key-value heads, E channels of a head, D width,
V vocabulary, N tokens to predict.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from interloom.config.language_model import LanguageModelConfig
from interloom.language_model.attention import KeyValueCache, attend
from interloom.language_model.cross_entropy import chunked_cross_entropy
from interloom.language_model.pointwise import Turn, rotate, swiglu
from interloom.language_model.sight import Documents, Sight
from interloom.training.linear import Linear


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.sizes = [n * config.head_size for n in (config.num_heads, *2 * [config.num_kv_heads])]
        self.head_size = config.head_size
        self.attend = attend
        self.qkv = Linear(config.hidden_size, sum(self.sizes), has_bias=config.has_qkv_bias)
        self.out = Linear(config.hidden_size, config.hidden_size)
        self.query_norm, self.key_norm = (
            nn.RMSNorm(config.head_size, config.norm_epsilon)
            if config.has_qk_norm
            else nn.Identity()
            for _ in range(2)
        )

    def forward(
        self, x_BTD: Tensor, turn: Turn, sight: Sight, cache: KeyValueCache | None
    ) -> Tensor:
        """Mix each token with those that ``sight`` lets it see."""
        rows, length, _ = x_BTD.shape
        q_BHTE, k_BGTE, v_BGTE = (
            part.view(rows, length, -1, self.head_size).transpose(1, 2)
            for part in self.qkv(x_BTD).split(self.sizes, dim=-1)
        )
        q_BHTE = rotate(self.query_norm(q_BHTE), turn)
        k_BGTE = rotate(self.key_norm(k_BGTE), turn)
        if cache is not None:
            k_BGTE, v_BGTE = cache.extend(k_BGTE, v_BGTE)
        seen_BHTE = self.attend(q_BHTE, k_BGTE, v_BGTE, sight)
        out: Tensor = self.out(seen_BHTE.transpose(1, 2).reshape(rows, length, -1))
        return out


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.hidden_size, 2 * config.ffn_size)
        self.down = Linear(config.ffn_size, config.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each token by itself."""
        out: Tensor = self.down(swiglu(self.gate_up(x_BTD)))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and beside the residual stream."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, config.norm_epsilon)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.hidden_size, config.norm_epsilon)
        self.ffn = FeedForward(config)

    def forward(
        self,
        x_BTD: Tensor,
        turn: Turn,
        sight: Sight,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """One block."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), turn, sight, cache)
        out: Tensor = x_BTD + self.ffn(self.ffn_norm(x_BTD))
        return out


class Transformer(nn.Module):
    """Embedding, blocks, norm and output matrix. Its call is the training loss."""

    def __init__(
        self,
        config: LanguageModelConfig,
        vocab_size: int,
        *,
        has_activation_checkpointing: bool = False,
        loss_chunk_tokens: int = 4096,
    ) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.has_activation_checkpointing = has_activation_checkpointing
        self.loss_chunk_tokens = loss_chunk_tokens
        self.embedding = nn.Embedding(vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_epsilon)
        self.head = (
            None
            if config.has_tied_embeddings
            else nn.Linear(config.hidden_size, vocab_size, bias=False)
        )

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all matrices; those that write to the residual stream begin smaller by depth."""
        deep = (2 * self.config.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                is_branch_end = name.endswith(("attention.out.weight", "ffn.down.weight"))
                std = self.config.init_std * (deep if is_branch_end else 1.0)
                with torch.no_grad():
                    parameter.normal_(0.0, std, generator=generator)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        segments_BT: Tensor,
        is_target_BT: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The loss of packed rows.

        Args:
            tokens_BT: Joint ids.
            positions_BT: Place within the document.
            segments_BT: Documents: tokens see those before them with the same number only.
            is_target_BT: Tokens to predict, each from the one before it; none is the first of a
                document.

        Returns:
            The sum of the losses, and the loss of each target (N,) in row-major order, which
            carries no gradient. Full logits are never held.
        """
        hidden_BTD = self.hidden(tokens_BT, positions_BT, Documents.of(segments_BT))
        return next_token_loss(
            hidden_BTD, self.output_weight, tokens_BT, is_target_BT, self.loss_chunk_tokens
        )

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        sight: Sight,
        caches: list[KeyValueCache] | None = None,
    ) -> Tensor:
        """The last hidden states (B, T, D), normalised."""
        x_BTD = self.embedding(tokens_BT)
        turn = rotary_turn(positions_BT, self.config, x_BTD.dtype)
        for index, block in enumerate(self.blocks):
            if self.has_activation_checkpointing and caches is None and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, turn, sight, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, turn, sight, None if caches is None else caches[index])
        out: Tensor = self.norm(x_BTD)
        return out

    @property
    def output_weight(self) -> Tensor:
        """The matrix (V, D) that gives logits."""
        return self.embedding.weight if self.head is None else self.head.weight


def next_token_loss(
    hidden_BTD: Tensor,
    output_weight_VD: Tensor,
    tokens_BT: Tensor,
    is_target_BT: Tensor,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Sum and single losses (N,) of the targets, each predicted from the state before it."""
    predicts_BT = is_target_BT.roll(-1, dims=1)
    return chunked_cross_entropy(
        hidden_BTD[predicts_BT], output_weight_VD, tokens_BT[is_target_BT], chunk_tokens
    )


def packed_mask(segments_BT: Tensor) -> Tensor:
    """(B, 1, T, T): each token sees itself and those before it in its own document."""
    length = segments_BT.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments_BT.device).tril()
    same = segments_BT[:, :, None] == segments_BT[:, None, :]
    return (same & causal)[:, None]


def rotary_turn(positions_BT: Tensor, config: LanguageModelConfig, dtype: torch.dtype) -> Turn:
    """Cosines and sines (B, 1, T, E / 2) of rotary positions, in halves as Llama has them."""
    half = torch.arange(0, config.head_size, 2, dtype=torch.float32, device=positions_BT.device)
    inverse_wavelengths = config.rope_theta ** (-half / config.head_size)
    angle = positions_BT[:, None, :, None].float() * inverse_wavelengths
    return angle.cos().to(dtype), angle.sin().to(dtype)
