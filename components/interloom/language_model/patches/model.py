"""The Latent Speech-Text Transformer: local encoder, global transformer, local decoder.

From the paper's description (arXiv 2510.06195, section 3; spec sections 7.2 and 8.7). Two things
differ on purpose, as the spec's table of ambiguities has it: no attention crosses documents, the
cross-attentions included, and their residual is added once (``doubles_residual`` adds it twice).

Visibility: what predicts the token after t sees every patch that is complete when t has been read.
A run of speech may end inside a patch; that patch is seen from the first token after the run on,
in training as in generation, so that no attention pattern tells the end of a run beforehand.

Legend: B rows, T tokens, P patches, K sub-queries of a patch, D global width, L local width, H
heads, E channels of a head, N tokens to predict.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PatchConfig
from interloom.language_model.attention import attend, attend_across
from interloom.language_model.model import Block, next_token_loss, rotary_turn
from interloom.language_model.patches.cutting import Patches, static_patches
from interloom.language_model.patches.sizes import local_shape
from interloom.language_model.sight import Crossing, Documents, Ranked, Sight
from interloom.training.linear import Linear


class CrossAttention(nn.Module):
    """Queries of one sequence over states of another, without positions."""

    def __init__(self, config: PatchConfig, epsilon: float) -> None:
        super().__init__()
        width = config.local_size
        self.num_heads = config.local_heads
        self.query_norm = nn.RMSNorm(width, epsilon)
        self.state_norm = nn.RMSNorm(width, epsilon)
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width)
        self.kept = 2.0 if config.doubles_residual else 1.0

    def forward(self, x_BQL: Tensor, states_BSL: Tensor, crossing: Crossing) -> Tensor:
        """Add to each query what it finds; one that sees nothing stays as it is.

        Args:
            x_BQL: Queries.
            states_BSL: What they look at.
            crossing: Which query sees which state.
        """
        key, value = self.states(states_BSL)
        found = attend_across(self.queries(x_BQL), key, value, crossing)
        return self._joined(x_BQL, found)

    def states(self, states_BSL: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, E)."""
        key, value = self.key_value(self.state_norm(states_BSL)).chunk(2, dim=-1)
        return self._heads(key), self._heads(value)

    def mixed(self, x_BQL: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, mask: Tensor) -> Tensor:
        """The same from keys and values, with a mask (B, 1, Q, S): for generation."""
        sees = mask.any(dim=-1, keepdim=True)
        found = attend(self.queries(x_BQL), key_BHSE, value_BHSE, mask | ~sees) * sees
        return self._joined(x_BQL, found)

    def queries(self, x_BQL: Tensor) -> Tensor:
        """(B, H, Q, E)."""
        return self._heads(self.query(self.query_norm(x_BQL)))

    def _joined(self, x_BQL: Tensor, found_BHQE: Tensor) -> Tensor:
        out: Tensor = self.kept * x_BQL + self.out(found_BHQE.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x_BSL: Tensor) -> Tensor:
        rows, length, width = x_BSL.shape
        return x_BSL.view(rows, length, self.num_heads, width // self.num_heads).transpose(1, 2)


class PatchEncoder(nn.Module):
    """Tokens to states, and states to patches."""

    def __init__(self, config: PatchConfig, shape: LanguageModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.local = local_shape(config, shape)
        self.embedding = nn.Embedding(vocab_size, config.local_size)
        self.blocks = nn.ModuleList(Block(self.local) for _ in range(config.encoder_layers))
        width = config.sub_queries * config.local_size
        self.expand = Linear(config.local_size, width)
        self.cross = CrossAttention(config, shape.norm_epsilon)
        self.widen = (
            nn.Identity() if width == shape.hidden_size else Linear(width, shape.hidden_size)
        )

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        segments_BT: Tensor,
        sight: Sight,
        patches: Patches,
    ) -> tuple[Tensor, Tensor]:
        """States (B, T, L) of the tokens, and patches (B, P, D)."""
        states_BTL = self.embedding(tokens_BT)
        turn = rotary_turn(positions_BT, self.local, states_BTL.dtype)
        for block in self.blocks:
            states_BTL = block(states_BTL, turn, sight)
        queries = self.queries(pooled(states_BTL, patches))
        crossing = own_crossing(patches, segments_BT, self.config)
        return states_BTL, self.widened(self.cross(queries, states_BTL, crossing))

    def queries(self, pooled_BPL: Tensor) -> Tensor:
        """K sub-queries of each patch, (B, P K, L)."""
        return _apart(self.expand(pooled_BPL), self.config.sub_queries)

    def widened(self, queries_BQL: Tensor) -> Tensor:
        """The sub-queries of each patch side by side, (B, P, D)."""
        rows, number, width = queries_BQL.shape
        count = self.config.sub_queries
        out: Tensor = self.widen(queries_BQL.reshape(rows, number // count, count * width))
        return out


class PatchDecoder(nn.Module):
    """States of tokens and patches to states that predict the next token."""

    def __init__(self, config: PatchConfig, shape: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.local = local_shape(config, shape)
        width = config.sub_queries * config.local_size
        self.narrow = Linear(shape.hidden_size, width)
        self.crosses = nn.ModuleList(
            CrossAttention(config, shape.norm_epsilon) for _ in range(config.decoder_layers)
        )
        self.blocks = nn.ModuleList(Block(self.local) for _ in range(config.decoder_layers))
        self.norm = nn.RMSNorm(config.local_size, shape.norm_epsilon)

    def forward(
        self,
        states_BTL: Tensor,
        patches_BPD: Tensor,
        positions_BT: Tensor,
        segments_BT: Tensor,
        sight: Sight,
        patches: Patches,
    ) -> Tensor:
        """Normalised states (B, T, L)."""
        narrow_BSL = self.narrowed(patches_BPD)
        seen = seen_crossing(patches, segments_BT, self.config)
        turn = rotary_turn(positions_BT, self.local, states_BTL.dtype)
        for cross, block in self.layers:
            states_BTL = block(cross(states_BTL, narrow_BSL, seen), turn, sight)
        out: Tensor = self.norm(states_BTL)
        return out

    @property
    def layers(self) -> Sequence[tuple[CrossAttention, Block]]:
        """Each cross-attention with the block after it."""
        crosses = cast("Iterable[CrossAttention]", self.crosses)
        return list(zip(crosses, cast("Iterable[Block]", self.blocks), strict=True))

    def narrowed(self, patches_BPD: Tensor) -> Tensor:
        """K entries of local width for each patch, (B, P K, L)."""
        return _apart(self.narrow(patches_BPD), self.config.sub_queries)


class PatchedTransformer(nn.Module):
    """Called as the plain ``Transformer`` is, and in its place: its call is the training loss."""

    def __init__(
        self,
        shape: LanguageModelConfig,
        config: PatchConfig,
        vocab_size: int,
        *,
        speech_offset: int,
        has_activation_checkpointing: bool = False,
        loss_chunk_tokens: int = 4096,
    ) -> None:
        """See the class.

        Args:
            shape: Of the global transformer.
            config: Of the local models and the cuts.
            vocab_size: Joint ids.
            speech_offset: Ids from here on are speech codes.
            has_activation_checkpointing: Recompute the global blocks in the backward pass.
            loss_chunk_tokens: Positions whose logits are held at once.
        """
        super().__init__()
        self.config = shape
        self.patching = config
        self.vocab_size = vocab_size
        self.speech_offset = speech_offset
        self.has_activation_checkpointing = has_activation_checkpointing
        self.loss_chunk_tokens = loss_chunk_tokens
        self.encoder = PatchEncoder(config, shape, vocab_size)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.decoder = PatchDecoder(config, shape)
        self.head = Linear(config.local_size, vocab_size)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all matrices; those that write to a residual stream begin smaller by depth."""
        std, deep = self.config.init_std, (2 * self.config.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                is_branch_end = name.endswith(("out.weight", "ffn.down.weight"))
                with torch.no_grad():
                    parameter.normal_(
                        0.0, std * deep if is_branch_end else std, generator=generator
                    )

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        segments_BT: Tensor,
        is_target_BT: Tensor,
        patches: Patches | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of packed rows, as ``Transformer.forward`` has it; static patches by default."""
        hidden_BTL = self.hidden(tokens_BT, positions_BT, segments_BT, patches)
        return next_token_loss(
            hidden_BTL, self.output_weight, tokens_BT, is_target_BT, self.loss_chunk_tokens
        )

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        segments_BT: Tensor,
        patches: Patches | None = None,
    ) -> Tensor:
        """The last states (B, T, L), normalised."""
        patches = self.cut(tokens_BT, segments_BT) if patches is None else patches
        near = token_sight(segments_BT, self.patching.token_window)
        states_BTL, x_BPD = self.encoder(tokens_BT, positions_BT, segments_BT, near, patches)
        turn = rotary_turn(patches.positions_BP, self.config, x_BPD.dtype)
        sight = Documents.of(patches.segments_BP)
        for block in self.blocks:
            if self.has_activation_checkpointing and torch.is_grad_enabled():
                x_BPD = checkpoint(block, x_BPD, turn, sight, use_reentrant=False)
            else:
                x_BPD = block(x_BPD, turn, sight)
        out: Tensor = self.decoder(states_BTL, x_BPD, positions_BT, segments_BT, near, patches)
        return out

    def cut(self, tokens_BT: Tensor, segments_BT: Tensor) -> Patches:
        """Static patches of these rows."""
        return static_patches(tokens_BT >= self.speech_offset, segments_BT, self.patching.size)

    @property
    def norm(self) -> nn.Module:
        """The norm that gives the last states."""
        return self.decoder.norm

    @property
    def output_weight(self) -> Tensor:
        """The matrix (V, L) that gives logits."""
        return self.head.weight


def pooled(states_BTL: Tensor, patches: Patches) -> Tensor:
    """The maximum of each patch's states by channel, (B, P, L); 0 past a row's last patch."""
    rows, _, width = states_BTL.shape
    place_BTL = patches.number_BT[:, :, None].expand(-1, -1, width)
    empty = states_BTL.new_zeros(rows, patches.num_patches, width)
    return empty.scatter_reduce(1, place_BTL, states_BTL, "amax", include_self=False)


def token_sight(segments_BT: Tensor, window: int) -> Sight:
    """What ``window_mask`` shows; by documents where a row is no longer than the window."""
    if segments_BT.shape[1] <= window:
        return Documents.of(segments_BT)
    return window_mask(segments_BT, window)


def window_mask(segments_BT: Tensor, window: int) -> Tensor:
    """(B, 1, T, T): each token sees itself and the ``window - 1`` before it in its document."""
    places = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    behind = places[:, None] - places[None, :]
    same = segments_BT[:, :, None] == segments_BT[:, None, :]
    return (same & (behind >= 0) & (behind < window))[:, None]


def patch_mask(patches: Patches) -> Tensor:
    """(B, 1, P, P): each patch sees itself and those before it in its document."""
    return window_mask(patches.segments_BP, patches.num_patches)


def own_mask(patches: Patches, segments_BT: Tensor, config: PatchConfig) -> Tensor:
    """(B, 1, P K, T): sub-queries see the tokens of their own patch and of those before it."""
    numbers_P = torch.arange(patches.num_patches, device=segments_BT.device)
    behind = numbers_P[:, None] - patches.number_BT[:, None, :]
    same = patches.segments_BP[:, :, None] == segments_BT[:, None, :]
    mask = same & (behind >= 0) & (behind < config.patch_window)
    return mask.repeat_interleave(config.sub_queries, dim=1)[:, None]


def seen_mask(patches: Patches, segments_BT: Tensor, config: PatchConfig) -> Tensor:
    """(B, 1, T, P K): tokens see the entries of the patches that are complete with them."""
    numbers_P = torch.arange(patches.num_patches, device=segments_BT.device)
    behind = patches.num_seen[:, :, None] - numbers_P
    same = segments_BT[:, :, None] == patches.segments_BP[:, None, :]
    mask = same & (behind > 0) & (behind <= config.patch_window)
    return mask.repeat_interleave(config.sub_queries, dim=2)[:, None]


def own_crossing(patches: Patches, segments_BT: Tensor, config: PatchConfig) -> Crossing:
    """What ``own_mask`` shows, by documents."""
    tokens = Ranked(segments_BT, patches.number_BT)
    return Crossing.of(_entries(patches, config), tokens, config.patch_window)


def seen_crossing(patches: Patches, segments_BT: Tensor, config: PatchConfig) -> Crossing:
    """What ``seen_mask`` shows, by documents."""
    tokens = Ranked(segments_BT, patches.num_seen - 1)
    return Crossing.of(tokens, _entries(patches, config), config.patch_window)


def _entries(patches: Patches, config: PatchConfig) -> Ranked:
    """K entries of each patch, ranked by its number."""
    segments_BP = patches.segments_BP
    numbers_BP = torch.arange(patches.num_patches).expand_as(segments_BP)
    count = config.sub_queries
    return Ranked(
        segments_BP.repeat_interleave(count, dim=1), numbers_BP.repeat_interleave(count, dim=1)
    )


def _apart(joined_BPJ: Tensor, count: int) -> Tensor:
    """``count`` vectors of each position one after another, (B, P count, J / count)."""
    rows, number, width = joined_BPJ.shape
    return joined_BPJ.reshape(rows, number * count, width // count)
