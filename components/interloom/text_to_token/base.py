"""Begin from a language model of text in Hugging Face's layout: Llama, Qwen 2 or Qwen 3.

Its embedding keeps its rows; the begin marker, the codes and the voices get new ones, drawn around
the mean of the old. Its output matrix goes: only codes and the end are ever said.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from interloom.config.text_to_token import BaseConfig
from interloom.core.errors import DataError, MissingError
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.prompt import InputIds

_FAMILIES = ("llama", "qwen2", "qwen3")
_CONFIG, _TOKENIZER, _WEIGHTS = "config.json", "tokenizer.json", "*.safetensors"
_BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention_out.weight": "self_attn.o_proj.weight",
    "gate_norm.weight": "post_attention_layernorm.weight",
    "down.weight": "mlp.down_proj.weight",
}
_QK_NORM = {
    "query_norm.weight": "self_attn.q_norm.weight",
    "key_norm.weight": "self_attn.k_norm.weight",
}
_FUSED = {
    "query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
}


@dataclass(frozen=True, slots=True)
class Base:
    """A language model of text, as its folder holds it.

    Attributes:
        body: Its ``config.json``.
        weights: Its tensors under their own names.
        text_tokenizer: Its ``tokenizer.json``.
    """

    body: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    text_tokenizer: TextTokenizer

    @property
    def num_text_ids(self) -> int:
        """Rows of its embedding."""
        return len(self.weights["model.embed_tokens.weight"])

    def shape(self, ids: InputIds, num_codes: int, dropout: float) -> ModelShape:
        """The shape of a text-to-token model that begins from it."""
        body, family = self.body, self.body["model_type"]
        heads = body["num_attention_heads"]
        return ModelShape(
            num_ids=ids.size,
            num_codes=num_codes,
            width=body["hidden_size"],
            num_layers=body["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=body.get("num_key_value_heads") or heads,
            head_width=body.get("head_dim") or body["hidden_size"] // heads,
            ffn_size=body["intermediate_size"],
            rotary_base=_rotary_base(body),
            norm_epsilon=body["rms_norm_eps"],
            has_qkv_bias=family == "qwen2",
            has_qk_norm=family == "qwen3",
            dropout=dropout,
        )

    def pour_into(self, model: TextToTokenModel) -> None:
        """Set all weights of ``model`` that the base has; the new rows must be drawn already.

        Raises:
            DataError: A weight is missing or of another shape.
        """
        named = _renamed(self.weights, model.shape)
        old = self.weights["model.embed_tokens.weight"].float()
        rows = model.embedding.weight.detach()
        spread = float(old.std()) / max(float(rows.std()), 1e-12)
        named["embedding.weight"] = torch.cat([old, rows[len(old) :] * spread + old.mean(0)])
        named["head.weight"] = model.head.weight.detach()
        try:
            model.load_state_dict({name: value.float() for name, value in named.items()})
        except RuntimeError as error:
            raise DataError(f"the base's weights do not fit its config.json: {error}") from error


def read_base(config: BaseConfig) -> Base:
    """Read a folder that holds ``config.json``, ``tokenizer.json`` and safetensors.

    Raises:
        MissingError: A file is not there.
        DataError: The files are not those of the digest, or not of a family that can be read.
    """
    folder = Path(config.folder)
    files = [folder / _CONFIG, folder / _TOKENIZER, *sorted(folder.glob(_WEIGHTS))]
    for path in files:
        if not path.is_file():
            raise MissingError(f"{path}: text_to_token.base needs this file; is it a base model?")
    if len(files) == 2:
        raise MissingError(f"{folder}: there is no {_WEIGHTS}; save the base as safetensors")
    found = digest_of(files)
    if found != config.sha256:
        raise DataError(
            f"{folder} holds another model: expected text_to_token.base.sha256 = {config.sha256}, "
            f"got {found}; if this is the one that you mean, write its digest into the recipe"
        )
    body = json.loads(files[0].read_bytes())
    _check(body)
    weights = {name: value for path in files[2:] for name, value in load_file(path).items()}
    return Base(body, weights, TextTokenizer.load(files[1]))


def digest_of(files: list[Path]) -> str:
    """One digest for files: of their names and contents, in order."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.name} {content}\n".encode())
    return whole.hexdigest()


def _check(body: Mapping[str, Any]) -> None:
    """Refuse what the model's arithmetic has not."""
    family = body.get("model_type")
    if family not in _FAMILIES:
        raise DataError(f"the base is a {family!r}; expected one of {', '.join(_FAMILIES)}")
    rope = body.get("rope_parameters") or body.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise DataError(f"the base scales its rotary positions by {kind!r}; expected 'default'")
    if body.get("hidden_act", "silu") != "silu" or body.get("mlp_bias"):
        raise DataError("the base's feed-forward layers must be SwiGLU without bias")
    if body.get("attention_bias"):
        raise DataError("the base's attention has a bias on its output, which the model has not")


def _rotary_base(body: Mapping[str, Any]) -> float:
    """Older configurations have it at the top."""
    rope = body.get("rope_parameters") or {}
    return float(rope.get("rope_theta", body.get("rope_theta", 10_000.0)))


def _renamed(weights: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """The blocks and the last norm, under our names, queries, keys and values in one."""

    def taken(name: str) -> Tensor:
        if name not in weights:
            raise DataError(f"the base has no {name!r}, which its config.json asks for")
        return weights[name]

    out = {"norm.weight": taken("model.norm.weight")}
    plain = _BLOCK | (_QK_NORM if shape.has_qk_norm else {})
    for layer in range(shape.num_layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        out |= {ours + name: taken(theirs + their_name) for name, their_name in plain.items()}
        for name, parts in _FUSED.items():
            has_bias = shape.has_qkv_bias and name == "query_key_value"
            for end in ("weight", "bias") if has_bias else ("weight",):
                out[f"{ours}{name}.{end}"] = torch.cat(
                    [taken(f"{theirs}{part}.{end}") for part in parts]
                )
    return out
