"""The plain transformer, or the one with latent speech patches: what a config asks for."""

from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PatchConfig
from interloom.language_model.growing import GrowingRows, PaddedRows, PlainRows
from interloom.language_model.model import Transformer
from interloom.language_model.patches.growing import PatchedRows
from interloom.language_model.patches.model import PatchedTransformer
from interloom.vocabulary.layout import VocabularyLayout

AnyTransformer = Transformer | PatchedTransformer


def build_model(
    shape: LanguageModelConfig,
    patches: PatchConfig,
    layout: VocabularyLayout,
    *,
    has_activation_checkpointing: bool = False,
    loss_chunk_tokens: int = 4096,
) -> AnyTransformer:
    """A model without weights of its own yet."""
    if patches.kind == "off":
        return Transformer(
            shape,
            layout.size,
            has_activation_checkpointing=has_activation_checkpointing,
            loss_chunk_tokens=loss_chunk_tokens,
        )
    return PatchedTransformer(
        shape,
        patches,
        layout.size,
        speech_offset=layout.speech_offset,
        has_activation_checkpointing=has_activation_checkpointing,
        loss_chunk_tokens=loss_chunk_tokens,
    )


def patches_of(model: AnyTransformer) -> PatchConfig:
    """The patches that a model was built with."""
    return model.patching if isinstance(model, PatchedTransformer) else PatchConfig()


def growing_rows(model: AnyTransformer, prompts: PaddedRows, *, new_tokens: int) -> GrowingRows:
    """Rows that this model reads and continues."""
    if isinstance(model, PatchedTransformer):
        return PatchedRows(model, prompts, new_tokens=new_tokens)
    return PlainRows(model, prompts, new_tokens=new_tokens)
