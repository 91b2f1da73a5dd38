"""Weights to and from Hugging Face checkpoints: Llama, and Qwen 2 and 3.

Qwen 2 is Llama with a bias on queries, keys and values, Qwen 3 one with norms on queries and keys.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from interloom.config.language_model import LanguageModelConfig
from interloom.core.errors import DataError

_TOP = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
_BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
}
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP = ("mlp.gate_proj.weight", "mlp.up_proj.weight")


def hf_config(config: LanguageModelConfig, vocab_size: int) -> dict[str, Any]:
    """The ``config.json`` of a Hugging Face checkpoint with the same numerics."""
    family = family_of(config)
    return {
        "architectures": [f"{family.title()}ForCausalLM"],
        "attention_bias": False,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_length,
        "model_type": family,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.has_tied_embeddings,
        "vocab_size": vocab_size,
    }


def family_of(config: LanguageModelConfig) -> str:
    """The ``model_type`` that computes as this shape does."""
    if config.has_qkv_bias:
        return "qwen2"
    return "qwen3" if config.has_qk_norm else "llama"


def export_hf(weights: Mapping[str, Tensor], config: LanguageModelConfig) -> dict[str, Tensor]:
    """Our state dict under Hugging Face names, fused matrices taken apart."""
    kv_size = config.num_kv_heads * config.head_size
    out = {theirs: weights[ours] for ours, theirs in _TOP.items()}
    if not config.has_tied_embeddings:
        out["lm_head.weight"] = weights["head.weight"]
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        for name, their_name in _BLOCK.items():
            if ours + name in weights:
                out[theirs + their_name] = weights[ours + name]
        for kind in _qkv_kinds(config):
            qkv = weights[f"{ours}attention.qkv.{kind}"]
            parts = torch.split(qkv, [config.hidden_size, kv_size, kv_size])
            out |= {f"{theirs}{name}.{kind}": p for name, p in zip(_QKV, parts, strict=True)}
        gate_up = weights[ours + "ffn.gate_up.weight"].chunk(2)
        out |= {theirs + name: part for name, part in zip(_GATE_UP, gate_up, strict=True)}
    return {name: value.contiguous() for name, value in out.items()}


def import_hf(weights: Mapping[str, Tensor], config: LanguageModelConfig) -> dict[str, Tensor]:
    """A Hugging Face state dict under our names.

    Raises:
        DataError: A weight that ``config`` asks for is not there.
    """
    taken = _Taken(weights)
    out = {ours: taken(theirs) for ours, theirs in _TOP.items()}
    if not config.has_tied_embeddings:
        out["head.weight"] = taken("lm_head.weight")
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        for name, their_name in _BLOCK.items():
            if config.has_qk_norm or ("query_norm" not in name and "key_norm" not in name):
                out[ours + name] = taken(theirs + their_name)
        for kind in _qkv_kinds(config):
            parts = [taken(f"{theirs}{name}.{kind}") for name in _QKV]
            out[f"{ours}attention.qkv.{kind}"] = torch.cat(parts)
        out[ours + "ffn.gate_up.weight"] = torch.cat([taken(theirs + name) for name in _GATE_UP])
    return out


def _qkv_kinds(config: LanguageModelConfig) -> tuple[str, ...]:
    return ("weight", "bias") if config.has_qkv_bias else ("weight",)


class _Taken:
    """Weights by name, with an error that says what is missing."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def __call__(self, name: str) -> Tensor:
        if name not in self._weights:
            raise DataError(
                f"the checkpoint has no {name!r}; does its config.json have as many layers, the "
                "same tying of embeddings and the same norms?"
            )
        return self._weights[name]
