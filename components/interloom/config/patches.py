"""Latent speech patches: several speech tokens as one position of the large model (LST)."""

from typing import Annotated, Literal, Self, assert_never

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from interloom.config.base import Frozen

PATCH_SIZE = "patch_size"
"""The fact of a stored language model that tells its ``lasting_size``."""


class PatchConfig(Frozen):
    """The local models around the global one (arXiv 2510.06195; spec section 7.2).

    A local encoder reads all tokens, patches of speech tokens become positions of the global
    model, and a local decoder predicts tokens from both. Text tokens and markers are patches of
    one. Generation and evaluation are static, whatever the kind: there is no aligner.

    Attributes:
        kind: ``off`` leaves the plain model as it is; ``static`` cuts each run of speech every
            ``size`` tokens; what remains at its end is a short patch. ``aligned`` cuts at words and
            silences; ``mixed`` draws for each document whether it is aligned or static, and
            ``curriculum`` goes from aligned by way of mixed to static as training goes on. These
            need ``mixture.alignment``, of words or of pieces; speech without it is static, and
            counted.
        size: Speech tokens of a static patch: 2 at 12.5 Hz gives the 6.25 Hz of the paper.
        silence: Whether a silence is a patch of its own, or of the word before it.
        aligned_share: Of ``mixed``: part of the documents that are aligned.
        aligned_rows: Of a curriculum: before this row of training all documents are aligned; None
            for a third of them.
        static_from_row: Of a curriculum: from this row on none is; None for two thirds.
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

    kind: Literal["off", "static", "aligned", "mixed", "curriculum"] = "off"
    size: PositiveInt = 2
    silence: Literal["separate", "merged"] = "separate"
    aligned_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    aligned_rows: NonNegativeInt | None = None
    static_from_row: NonNegativeInt | None = None
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

    @model_validator(mode="after")
    def _phases_are_in_order(self) -> Self:
        first, last = self.aligned_rows, self.static_from_row
        if first is not None and last is not None and first > last:
            raise ValueError(f"static_from_row must be at least aligned_rows = {first}, got {last}")
        return self

    @property
    def uses_alignment(self) -> bool:
        """Whether some documents are cut at words."""
        return self.kind in {"aligned", "mixed", "curriculum"}

    @property
    def lasting_size(self) -> int:
        """What a model keeps of its patches: the size of static ones; 0 of a plain model."""
        return 0 if self.kind == "off" else self.size

    @property
    def settled(self) -> Self:
        """The same once the training is over: what was aligned is static from there on."""
        return self.model_copy(update={"kind": "static"}) if self.uses_alignment else self

    def over(self, num_rows: int) -> Self:
        """The same for a training of so many rows, with the thirds of a curriculum counted out."""
        if self.kind != "curriculum":
            return self
        first = num_rows // 3 if self.aligned_rows is None else self.aligned_rows
        last = self.static_from_row
        last = max(first, 2 * num_rows // 3) if last is None else last
        return self.model_copy(update={"aligned_rows": first, "static_from_row": last})

    def share_aligned(self, row: int) -> float:
        """The probability that a document of a row of training is aligned (spec 8.7).

        A curriculum must have been laid ``over`` its rows.
        """
        match self.kind:
            case "off" | "static":
                return 0.0
            case "aligned":
                return 1.0
            case "mixed":
                return self.aligned_share
            case "curriculum":
                first, last = self.aligned_rows or 0, self.static_from_row or 0
                return min(1.0, max(0.0, (last - row) / max(1, last - first)))
            case _:
                assert_never(self.kind)
