"""Latent speech patches: several speech tokens as one position of the large model (LST)."""

from typing import Literal, Self

from pydantic import NonNegativeInt, PositiveInt, model_validator

from interloom.config.base import Frozen


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
