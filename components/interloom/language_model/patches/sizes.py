"""Sizes and operations of the latent speech-text transformer, counted from its config alone."""

from dataclasses import dataclass

from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PatchConfig


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

    @classmethod
    def of_row(cls, config: PatchConfig, tokens: int, *, speech_share: float) -> "PatchWork":
        """One row that is one document, so much of it speech, as if it lay evenly in the row."""
        patches = round(tokens * (1 - speech_share * (1 - 1 / config.size)))
        seen = _windowed(patches, config.patch_window)
        crossed = round(config.sub_queries * seen * tokens / patches)
        local = _windowed(tokens, config.token_window)
        return cls(tokens, tokens, patches, local, crossed, _windowed(patches, patches), crossed)


def _windowed(length: int, window: int) -> int:
    """Pairs of a causal attention over the last ``window`` positions."""
    full = min(length, window)
    return full * (full + 1) // 2 + (length - full) * full


def local_shape(config: PatchConfig, shape: LanguageModelConfig) -> LanguageModelConfig:
    """The blocks of the local models around a global model of this shape."""
    return shape.model_copy(
        update={
            "hidden_size": config.local_size,
            "num_heads": config.local_heads,
            "num_kv_heads": config.local_heads,
            "ffn_size": config.local_ffn_size,
        }
    )


def num_parameters(
    config: PatchConfig, shape: LanguageModelConfig, vocab_size: int
) -> dict[str, int]:
    """Weights of each module; those of the encoder hold the embedding."""
    width, joined = config.local_size, config.sub_queries * config.local_size
    block = local_shape(config, shape).block_parameters
    cross = 4 * width * width + 2 * width
    widen = 0 if joined == shape.hidden_size else joined * shape.hidden_size
    return {
        "encoder": vocab_size * width
        + config.encoder_layers * block
        + width * joined
        + cross
        + widen,
        "global": shape.num_layers * shape.block_parameters,
        "decoder": shape.hidden_size * joined
        + config.decoder_layers * (cross + block)
        + width
        + vocab_size * width,
    }


def forward_flops(
    config: PatchConfig, shape: LanguageModelConfig, vocab_size: int, work: PatchWork
) -> dict[str, int]:
    """Floating-point operations of one forward pass, by module, without norms and rotations.

    What computes all pairs, as a dense mask does, is counted by ``PatchWork.dense``.
    """
    width, joined = config.local_size, config.sub_queries * config.local_size
    entries = work.patches * config.sub_queries
    local = _block_flops(local_shape(config, shape), work.tokens, work.local_pairs)
    widen = 0 if joined == shape.hidden_size else joined * shape.hidden_size
    return {
        "encoder": config.encoder_layers * local,
        "patches": 2 * work.patches * (width * joined + widen)
        + _cross_flops(width, entries, work.tokens, work.patch_pairs),
        "global": shape.num_layers * _block_flops(shape, work.patches, work.global_pairs),
        "decoder": 2 * work.patches * shape.hidden_size * joined
        + config.decoder_layers
        * (local + _cross_flops(width, work.tokens, entries, work.decoder_pairs)),
        "head": 2 * work.targets * width * vocab_size,
    }


def _block_flops(shape: LanguageModelConfig, length: int, pairs: int) -> int:
    """One block."""
    kv_size = shape.num_kv_heads * shape.head_size
    matrices = 2 * shape.hidden_size * (shape.hidden_size + kv_size)
    matrices += 3 * shape.hidden_size * shape.ffn_size
    return 2 * length * matrices + 4 * pairs * shape.hidden_size


def _cross_flops(width: int, queries: int, states: int, pairs: int) -> int:
    """One cross-attention."""
    return 4 * (queries + states) * width * width + 4 * pairs * width
