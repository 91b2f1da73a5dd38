"""Pre-trained text models to start from: taken in, checked, and given rows for speech and markers.

Legend: V rows of a table, D width.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from interloom.config.language_model import LanguageModelConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError, MissingError
from interloom.language_model.convert import import_hf
from interloom.ports.store import ArtifactStore
from interloom.text.bpe import FILE, TextTokenizer
from interloom.vocabulary.layout import VocabularyLayout

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_TABLES = ("embedding.weight", "head.weight")
_NOISE = 0.1  # of new rows around the mean, as a part of the old rows' deviation
_FREE = {"max_length", "init_std"}  # what a recipe may set as it likes
_DEFAULT_THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class ImportedBase:
    """What came of a folder.

    Attributes:
        ref: Of kind ``base_model``.
        text_tokenizer: Its tokenizer.
        text_vocab_size: Ids of its tokenizer.
        shape: What ``pretrain.model`` has to be.
        num_parameters: Weights in all.
    """

    ref: ArtifactRef
    text_tokenizer: ArtifactRef
    text_vocab_size: int
    shape: LanguageModelConfig
    num_parameters: int


def import_base(folder: Path, *, licence: str, store: ArtifactStore) -> ImportedBase:
    """Store a Llama, Qwen 2 or Qwen 3 from a folder as Hugging Face publishes it.

    Raises:
        MissingError: A file of it is not there.
        DataError: It is of another architecture, its weights do not fit its config, or its table
            has fewer rows than its tokenizer has ids.
    """
    shape = shape_of(_read_json(folder / CONFIG))
    text = TextTokenizer.load(_existing(folder / FILE))
    weights = import_hf(_weights(folder), shape)
    rows = len(weights[_TABLES[0]])
    if rows < text.vocab_size:
        raise DataError(
            f"{folder} has {rows} rows of embeddings and a tokenizer of {text.vocab_size} ids; "
            "they are not of one model"
        )
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard(FILE) as shard:
            text.save(shard.path)
        text_ref = draft.commit(licences=(licence,), facts={"vocab_size": text.vocab_size})
    with store.draft(ArtifactKind.BASE_MODEL) as draft:
        with draft.shard(WEIGHTS) as shard:
            save_file(weights, shard.path)
            shard.count(parameters=sum(value.numel() for value in weights.values()))
        with draft.shard(CONFIG) as shard:
            shard.path.write_text(shape.model_dump_json(indent=1))
        ref = draft.commit(
            parents=(text_ref,),
            licences=(licence,),
            facts={"text_tokenizer": text_ref.id, "text_vocab_size": text.vocab_size},
        )
    count = store.manifest(ref).count("parameters")
    return ImportedBase(ref, text_ref, text.vocab_size, shape, count)


def start_from_base(
    model: nn.Module,
    shape: LanguageModelConfig,
    layout: VocabularyLayout,
    base: ArtifactRef,
    *,
    store: ArtifactStore,
    generator: torch.Generator,
) -> None:
    """Give a model the weights of a base; rows of its tables for markers and speech are new.

    A new row is the mean of the rows of text ids, with a little noise, in the input and the output
    table. Rows that pad the base's table beyond its tokenizer are not text and not used.

    Raises:
        DataError: The base is of another shape, or the layout is of another text tokenizer.
    """
    manifest = store.manifest(base)
    own = manifest.facts["text_tokenizer"]
    if own != layout.text_tokenizer:
        raise DataError(
            f"{base} reads text by tokenizer {own[:12]}, the rows were made with "
            f"{layout.text_tokenizer[:12]}; set ingest.text_tokenizer to text_tokenizer:{own} and "
            "mix again"
        )
    held = LanguageModelConfig.model_validate_json(
        store.local_path(manifest.shard(CONFIG)).read_bytes()
    )
    _require_shape(base, held, shape)
    weights = load_file(store.local_path(manifest.shard(WEIGHTS)))
    for name in _TABLES:
        if name in weights:
            weights[name] = extended(weights[name], layout, generator)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"the weights of {base} do not fit the model: {error}") from error


def extended(table_VD: Tensor, layout: VocabularyLayout, generator: torch.Generator) -> Tensor:
    """The rows of text ids, and new ones up to the size of the layout, in fp32."""
    text_VD = table_VD[: layout.text_vocab_size].float()
    new = torch.randn(layout.size - len(text_VD), text_VD.shape[1], generator=generator)
    return torch.cat([text_VD, text_VD.mean(dim=0) + _NOISE * text_VD.std(dim=0) * new])


def shape_of(body: Mapping[str, Any]) -> LanguageModelConfig:
    """The shape that a Hugging Face ``config.json`` describes.

    Raises:
        DataError: It describes what this transformer cannot compute.
    """
    kind = body.get("model_type")
    if kind not in {"llama", "qwen2", "qwen3"}:
        raise DataError(
            f"a checkpoint of {kind!r} cannot be a base; expected llama, qwen2 or qwen3"
        )
    rope = body.get("rope_parameters") or body.get("rope_scaling") or {}
    found = {
        "attention_bias": body.get("attention_bias", False),
        "mlp_bias": body.get("mlp_bias", False),
        "use_sliding_window": body.get("use_sliding_window", False),
        "hidden_act": body.get("hidden_act", "silu"),
        "rope type": rope.get("rope_type", rope.get("type", "default")),
        "head_dim": body.get("head_dim") or body["hidden_size"] // body["num_attention_heads"],
    }
    needed = {
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "hidden_act": "silu",
        "rope type": "default",
        "head_dim": body["hidden_size"] // body["num_attention_heads"],
    }
    for name, value in needed.items():
        if found[name] != value:
            raise DataError(
                f"the checkpoint has {name} = {found[name]!r}, only {value!r} can be a base"
            )
    return LanguageModelConfig(
        hidden_size=body["hidden_size"],
        num_layers=body["num_hidden_layers"],
        num_heads=body["num_attention_heads"],
        num_kv_heads=body.get("num_key_value_heads") or body["num_attention_heads"],
        ffn_size=body["intermediate_size"],
        rope_theta=rope.get("rope_theta", body.get("rope_theta", _DEFAULT_THETA)),
        norm_epsilon=body["rms_norm_eps"],
        has_qk_norm=kind == "qwen3",
        has_qkv_bias=kind == "qwen2",
        has_tied_embeddings=body.get("tie_word_embeddings", False),
        max_length=body.get("max_position_embeddings", 4096),
    )


def _require_shape(
    base: ArtifactRef, held: LanguageModelConfig, shape: LanguageModelConfig
) -> None:
    want, have = (one.model_dump(exclude=_FREE) for one in (shape, held))
    differing = [
        f"{name} {have[name]}, not {value}" for name, value in want.items() if have[name] != value
    ]
    if differing:
        raise DataError(
            f"{base} is of another architecture than pretrain.model: it has "
            f"{'; '.join(differing)}; give the recipe the base's shape"
        )


def _weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MissingError(f"{folder} holds no *.safetensors; pickled weights are not read")
    held: dict[str, Tensor] = {}
    for file in files:
        held |= load_file(file)
    return held


def _read_json(path: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    return body


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MissingError(f"there is no {path}; a base is a folder as Hugging Face publishes it")
    return path
