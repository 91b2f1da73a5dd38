"""Latent speech patches: several speech tokens as one position of the large model (LST)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from pydantic import NonNegativeInt, PositiveInt, model_validator

from interloom.config.base import Frozen

if TYPE_CHECKING:
    from interloom.config.language_model import LanguageModelConfig


class PatchConfig(Frozen):
    """The local models around the global one (arXiv 2510.06195; spec section 7.2).

    A local encoder reads all tokens, patches of speech tokens become positions of the global
    model, and a local decoder predicts tokens from both. Text tokens and markers are patches of
    one.

    Attributes:
        kind: ``off`` leaves the plain model as it is; ``static`` cuts each run of speech every
            ``size`` tokens; what remains at its end is a short patch.
        size: Speech tokens of a patch: 2 at 12.5 Hz gives the 6.25 Hz of the paper.
        local_size: Width d of encoder and decoder.
        encoder_layers: Of the local encoder, which ends with the cross-attention of patches.
        decoder_layers: Of the local decoder; each begins with a cross-attention to patches.
        local_heads: Attention heads of both.
        local_ffn_size: Inner width of their SwiGLU.
        token_window: Tokens that a token sees in the local models, itself included.
        patch_window: Patches that a token, or a patch in the encoder's cross-attention, sees.
        sub_queries: Queries k of a patch; side by side they are one position of the global model.
        doubles_residual: Add the residual of the cross-attentions twice, as the code released
            with the paper does.
    """

    kind: Literal["off", "static"] = "off"
    size: PositiveInt = 2
    local_size: PositiveInt = 96
    encoder_layers: NonNegativeInt = 1
    decoder_layers: PositiveInt = 2
    local_heads: PositiveInt = 4
    local_ffn_size: PositiveInt = 256
    token_window: PositiveInt = 512
    patch_window: PositiveInt = 512
    sub_queries: PositiveInt = 2
    doubles_residual: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.local_size % self.local_heads or (self.local_size // self.local_heads) % 2:
            raise ValueError(
                f"local_size must be an even multiple of local_heads, got {self.local_size} and "
                f"{self.local_heads}"
            )
        return self

    def local_shape(self, shape: "LanguageModelConfig") -> "LanguageModelConfig":
        """The blocks of the local models around a global model of this shape."""
        return shape.model_copy(
            update={
                "hidden_size": self.local_size,
                "num_heads": self.local_heads,
                "num_kv_heads": self.local_heads,
                "ffn_size": self.local_ffn_size,
            }
        )

    def num_parameters(self, shape: "LanguageModelConfig", vocab_size: int) -> dict[str, int]:
        """Weights of each module; those of the encoder hold the embedding."""
        width, joined = self.local_size, self.sub_queries * self.local_size
        block = self.local_shape(shape).block_parameters
        cross = 4 * width * width + 2 * width
        widen = 0 if joined == shape.hidden_size else joined * shape.hidden_size
        return {
            "encoder": vocab_size * width
            + self.encoder_layers * block
            + width * joined
            + cross
            + widen,
            "global": shape.num_layers * shape.block_parameters,
            "decoder": shape.hidden_size * joined
            + self.decoder_layers * (cross + block)
            + width
            + vocab_size * width,
        }

    def forward_flops(
        self, shape: "LanguageModelConfig", vocab_size: int, work: "PatchWork"
    ) -> dict[str, int]:
        """Floating-point operations of one forward pass, by module, without norms and rotations.

        What computes all pairs, as a dense mask does, is counted by ``PatchWork.dense``.
        """
        width, joined = self.local_size, self.sub_queries * self.local_size
        entries = work.patches * self.sub_queries
        local = _block_flops(self.local_shape(shape), work.tokens, work.local_pairs)
        widen = 0 if joined == shape.hidden_size else joined * shape.hidden_size
        return {
            "encoder": self.encoder_layers * local,
            "patches": 2 * work.patches * (width * joined + widen)
            + _cross_flops(width, entries, work.tokens, work.patch_pairs),
            "global": shape.num_layers * _block_flops(shape, work.patches, work.global_pairs),
            "decoder": 2 * work.patches * shape.hidden_size * joined
            + self.decoder_layers
            * (local + _cross_flops(width, work.tokens, entries, work.decoder_pairs)),
            "head": 2 * work.targets * width * vocab_size,
        }


@dataclass(frozen=True, slots=True)
class PatchWork:
    """What a forward pass works through.

    Attributes:
        tokens: Tokens.
        targets: Tokens whose logits are computed.
        patches: Patches.
        local_pairs: Tokens that tokens see, summed over tokens.
        patch_pairs: Tokens that sub-queries of patches see.
        global_pairs: Patches that patches see.
        decoder_pairs: Entries of patches that tokens see.
    """

    tokens: int
    targets: int
    patches: int
    local_pairs: int
    patch_pairs: int
    global_pairs: int
    decoder_pairs: int

    @classmethod
    def dense(cls, tokens: int, patches: int, *, sub_queries: int) -> "PatchWork":
        """One row whose attentions compute every pair, seen or not."""
        crossed = tokens * patches * sub_queries
        return cls(tokens, tokens, patches, tokens**2, crossed, patches**2, crossed)


def _block_flops(shape: "LanguageModelConfig", length: int, pairs: int) -> int:
    """One block."""
    kv_size = shape.num_kv_heads * shape.head_size
    matrices = 2 * shape.hidden_size * (shape.hidden_size + kv_size)
    matrices += 3 * shape.hidden_size * shape.ffn_size
    return 2 * length * matrices + 4 * pairs * shape.hidden_size


def _cross_flops(width: int, queries: int, states: int, pairs: int) -> int:
    """One cross-attention."""
    return 4 * (queries + states) * width * width + 4 * pairs * width
