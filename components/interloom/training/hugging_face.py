"""Language models of text as Hugging Face keeps them: Llama, and Qwen 2 and 3.

Qwen 2 is Llama with a bias on queries, keys and values, Qwen 3 one with norms on queries and keys.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from interloom.core.errors import DataError, MissingError

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
_FAMILIES = ("llama", "qwen2", "qwen3")
_BLOCK = {
    "attention_norm": ("input_layernorm",),
    "query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "query_norm": ("self_attn.q_norm",),
    "key_norm": ("self_attn.k_norm",),
    "attention_out": ("self_attn.o_proj",),
    "gate_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_OWN_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a ``config.json`` says of the arithmetic.

    Attributes:
        width: Of the residual stream.
        num_layers: Blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_width: Channels of a head.
        ffn_size: Inner width of SwiGLU.
        rotary_base: Of the rotary wavelengths.
        norm_epsilon: Added to the mean square in RMSNorm.
        max_length: Longest sequence it was made for.
        has_qkv_bias: Whether queries, keys and values have a bias.
        has_qk_norm: Whether queries and keys are normalised per head.
        has_tied_embeddings: Whether the output matrix is the input table.
    """

    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ffn_size: int
    rotary_base: float
    norm_epsilon: float
    max_length: int = 4096
    has_qkv_bias: bool = False
    has_qk_norm: bool = False
    has_tied_embeddings: bool = False

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Architecture":
        """That of a ``config.json``.

        Raises:
            DataError: It asks for arithmetic that our models have not.
        """
        family, heads = body.get("model_type"), body.get("num_attention_heads", 1)
        if family not in _FAMILIES:
            raise DataError(
                f"a checkpoint of {family!r} cannot be a base; expected llama, qwen2 or qwen3"
            )
        rope = body.get("rope_parameters") or body.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        require("rope type", kind, "default")
        require("hidden_act", body.get("hidden_act", "silu"), "silu")
        for name in ("attention_bias", "mlp_bias", "use_sliding_window"):
            require(name, body.get(name, False), expected=False)
        try:
            return cls(
                width=body["hidden_size"],
                num_layers=body["num_hidden_layers"],
                num_heads=heads,
                num_kv_heads=body.get("num_key_value_heads") or heads,
                head_width=body.get("head_dim") or body["hidden_size"] // heads,
                ffn_size=body["intermediate_size"],
                rotary_base=float(rope.get("rope_theta", body.get("rope_theta", 10_000.0))),
                norm_epsilon=body["rms_norm_eps"],
                max_length=body.get("max_position_embeddings", 4096),
                has_qkv_bias=family == "qwen2",
                has_qk_norm=family == "qwen3",
                has_tied_embeddings=body.get("tie_word_embeddings", False),
            )
        except KeyError as error:
            raise DataError(f"the checkpoint's {CONFIG} does not say its {error}") from error

    @property
    def family(self) -> str:
        """The ``model_type`` that computes so."""
        if self.has_qkv_bias:
            return "qwen2"
        return "qwen3" if self.has_qk_norm else "llama"

    def to_config(self, vocab_size: int) -> dict[str, Any]:
        """A ``config.json`` with the same numerics."""
        return {
            "architectures": [f"{self.family.title()}ForCausalLM"],
            "attention_bias": False,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "hidden_size": self.width,
            "intermediate_size": self.ffn_size,
            "max_position_embeddings": self.max_length,
            "model_type": self.family,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rotary_base,
            "tie_word_embeddings": self.has_tied_embeddings,
            "vocab_size": vocab_size,
        }


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder as Hugging Face publishes it.

    Attributes:
        files: ``config.json``, ``tokenizer.json``, then all safetensors by name.
    """

    files: tuple[Path, ...]

    @property
    def tokenizer(self) -> Path:
        """Its ``tokenizer.json``."""
        return self.files[1]

    @classmethod
    def at(cls, folder: Path) -> "Checkpoint":
        """The checkpoint in a folder.

        Raises:
            MissingError: A file of it is not there.
        """
        files = (folder / CONFIG, folder / TOKENIZER)
        for path in files:
            if not path.is_file():
                raise MissingError(
                    f"there is no {path}; a base is a folder as Hugging Face publishes it"
                )
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise MissingError(f"{folder} holds no *.safetensors; pickled weights are not read")
        return cls((*files, *weights))

    def architecture(self) -> Architecture:
        """What its ``config.json`` says.

        Raises:
            DataError: It is not JSON, or asks for arithmetic that our models have not.
        """
        try:
            body = json.loads(self.files[0].read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self.files[0]} is not JSON: {error}") from error
        return Architecture.of(body)

    def weights(self) -> dict[str, Tensor]:
        """Its tensors under their own names.

        Raises:
            DataError: A file is no safetensors.
        """
        held: dict[str, Tensor] = {}
        for path in self.files[2:]:
            try:
                held |= load_file(path)
            except SafetensorError as error:
                raise DataError(f"{path} cannot be read, fetch it again: {error}") from error
        return held


def require(name: str, found: object, expected: object) -> None:
    """Refuse a checkpoint in which something is not as it has to be.

    Raises:
        DataError: It is not.
    """
    if found != expected:
        raise DataError(f"the checkpoint has {name} = {found!r}, only {expected!r} can be a base")


def export_weights(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    names: Mapping[str, str] = _OWN_NAMES,
) -> dict[str, Tensor]:
    """Our state dict under Hugging Face names, fused matrices taken apart.

    ``names`` says what a model calls the parts of a block that it does not call as ``_BLOCK`` does.
    """
    heads, size = architecture.num_heads, architecture.head_width
    key_rows = architecture.num_kv_heads * size
    rows = {3: [heads * size, key_rows, key_rows], 2: 2 * [architecture.ffn_size]}
    out: dict[str, Tensor] = {}
    for ours, theirs in _pairs(architecture, names):
        value = weights[ours]
        parts = torch.split(value, rows.get(len(theirs), [len(value)]))
        out |= {name: part.contiguous() for name, part in zip(theirs, parts, strict=True)}
    return out


def import_weights(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    names: Mapping[str, str] = _OWN_NAMES,
) -> dict[str, Tensor]:
    """A Hugging Face state dict under our names; ``names`` as for ``export_weights``.

    Raises:
        DataError: A weight that the architecture asks for is not there.
    """

    def taken(name: str) -> Tensor:
        if name not in weights:
            raise DataError(
                f"the checkpoint has no {name!r}; does its {CONFIG} have as many layers, the same "
                "tying of embeddings and the same norms?"
            )
        return weights[name]

    return {
        ours: torch.cat([taken(name) for name in theirs])
        for ours, theirs in _pairs(architecture, names)
    }


def _pairs(
    architecture: Architecture, names: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each tensor of ours, with those of theirs that it holds one below the other."""
    yield "embedding.weight", ("model.embed_tokens.weight",)
    yield "norm.weight", ("model.norm.weight",)
    if not architecture.has_tied_embeddings:
        yield "head.weight", ("lm_head.weight",)
    for layer in range(architecture.num_layers):
        for part, theirs in _BLOCK.items():
            if part in {"query_norm", "key_norm"} and not architecture.has_qk_norm:
                continue
            has_bias = architecture.has_qkv_bias and part == "query_key_value"
            for kind in ("weight", "bias") if has_bias else ("weight",):
                yield (
                    f"blocks.{layer}.{names.get(part, part)}.{kind}",
                    tuple(f"model.layers.{layer}.{name}.{kind}" for name in theirs),
                )
