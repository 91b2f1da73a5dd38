"""A text-to-token model once more, as Hugging Face's Llama: the peer of parity and speed."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interloom.text_to_token.model import ModelShape, TextToTokenModel

_TOP = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}
_BLOCK = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "gate_norm",
    "self_attn.o_proj": "attention_out",
    "mlp.down_proj": "down",
}


def llama_twin(ours: TextToTokenModel) -> Any:
    """A ``LlamaForCausalLM`` with the same weights, whose last output ends the sequence.

    Its positions are those of a plain sequence; its outputs are the codes and the end.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = ours.shape
    config = LlamaConfig(
        vocab_size=shape.num_ids,
        hidden_size=shape.width,
        intermediate_size=shape.ffn_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_width,
        rope_theta=shape.rotary_base,
        rms_norm_eps=shape.norm_epsilon,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=shape.num_codes,
        pad_token_id=shape.num_codes,
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.lm_head = nn.Linear(shape.width, shape.num_codes + 1, bias=False)
    theirs.load_state_dict(_as_llama(ours.state_dict(), shape))
    return theirs


def _as_llama(weights: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """Our tensors under their names."""
    named = {theirs: weights[ours] for theirs, ours in _TOP.items()}
    for at in range(shape.num_layers):
        ours, theirs = f"blocks.{at}.", f"model.layers.{at}."
        for their_name, name in _BLOCK.items():
            named[f"{theirs}{their_name}.weight"] = weights[f"{ours}{name}.weight"]
        parts = torch.split(weights[f"{ours}query_key_value.weight"], list(shape.qkv_sizes))
        for name, part in zip("qkv", parts, strict=True):
            named[f"{theirs}self_attn.{name}_proj.weight"] = part
        gate, up = weights[f"{ours}gate_up.weight"].chunk(2)
        named |= {f"{theirs}mlp.gate_proj.weight": gate, f"{theirs}mlp.up_proj.weight": up}
    return named
