"""Weights of the transformer to and from Hugging Face checkpoints."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interloom.config.language_model import LanguageModelConfig
from interloom.training.hugging_face import (
    Architecture,
    export_weights,
    import_weights,
    require,
)

_NAMES = {
    "query_key_value": "attention.qkv",
    "query_norm": "attention.query_norm",
    "key_norm": "attention.key_norm",
    "attention_out": "attention.out",
    "gate_norm": "ffn_norm",
    "gate_up": "ffn.gate_up",
    "down": "ffn.down",
}


def hf_config(config: LanguageModelConfig, vocab_size: int) -> dict[str, Any]:
    """The ``config.json`` of a Hugging Face checkpoint with the same numerics."""
    return _architecture(config).to_config(vocab_size)


def export_hf(weights: Mapping[str, Tensor], config: LanguageModelConfig) -> dict[str, Tensor]:
    """Our state dict under Hugging Face names, fused matrices taken apart."""
    return export_weights(weights, _architecture(config), _NAMES)


def import_hf(weights: Mapping[str, Tensor], config: LanguageModelConfig) -> dict[str, Tensor]:
    """A Hugging Face state dict under our names.

    Raises:
        DataError: A weight that ``config`` asks for is not there.
    """
    return import_weights(weights, _architecture(config), _NAMES)


def shape_of(architecture: Architecture) -> LanguageModelConfig:
    """The shape of a transformer that computes as a checkpoint does.

    Raises:
        DataError: Its heads are wider or narrower than ours can be.
    """
    width, heads = architecture.width, architecture.num_heads
    require("head_dim", architecture.head_width, width // heads)
    return LanguageModelConfig(
        hidden_size=width,
        num_layers=architecture.num_layers,
        num_heads=heads,
        num_kv_heads=architecture.num_kv_heads,
        ffn_size=architecture.ffn_size,
        rope_theta=architecture.rotary_base,
        norm_epsilon=architecture.norm_epsilon,
        has_qk_norm=architecture.has_qk_norm,
        has_qkv_bias=architecture.has_qkv_bias,
        has_tied_embeddings=architecture.has_tied_embeddings,
        max_length=architecture.max_length,
    )


def _architecture(config: LanguageModelConfig) -> Architecture:
    """The same shape in the words of checkpoints."""
    return Architecture(
        width=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_width=config.head_size,
        ffn_size=config.ffn_size,
        rotary_base=config.rope_theta,
        norm_epsilon=config.norm_epsilon,
        max_length=config.max_length,
        has_qkv_bias=config.has_qkv_bias,
        has_qk_norm=config.has_qk_norm,
        has_tied_embeddings=config.has_tied_embeddings,
    )
