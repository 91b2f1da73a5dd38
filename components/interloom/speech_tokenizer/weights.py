"""Weights of others: Hugging Face's Whisper and the released GLM-4-Voice tokenizer (spec 1.5).

Their layers below and above the quantiser have Whisper's names, as ours have; what the tokenizer
has besides is written out here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from interloom.config.speech_tokenizer import EncoderConfig, QuantizerConfig, TokenizerConfig
from interloom.core.errors import DataError, MissingError
from interloom.speech_tokenizer.model import TokenizerModel

_ENCODER, _DECODER = "model.encoder.", "model.decoder."
_P1_BLOCK_FRAMES = 200  # 4 s
_P1_POOL = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of others' weights.

    Attributes:
        config: Its ``config.json``.
        state: All tensors of its ``*.safetensors``, named ``model.encoder.*`` and so on.
    """

    config: Mapping[str, Any]
    state: Mapping[str, Tensor]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read ``config.json`` and every ``*.safetensors`` of a folder.

    Raises:
        MissingError: One of them is not there.
        DataError: One of them is not what its name says.
    """
    files = sorted(folder.glob("*.safetensors"))
    config = folder / "config.json"
    if not config.is_file() or not files:
        raise MissingError(
            f"{folder} holds no config.json with *.safetensors; "
            "expected a checkpoint as Hugging Face publishes it"
        )
    state: dict[str, Tensor] = {}
    try:
        body = json.loads(config.read_text())
        for file in files:
            state |= load_file(file)
    except (ValueError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be read as a checkpoint: {error}") from error
    named = {
        name if name.startswith("model.") else f"model.{name}": value
        for name, value in state.items()
    }
    return Checkpoint(body, named)


def config_of(checkpoint: Checkpoint) -> TokenizerConfig:
    """The configuration that a checkpoint fits.

    A Whisper without quantiser gets P1's: half way up, 12.5 Hz, causal in blocks of 4 s.

    Raises:
        DataError: A key is missing, or asks for what the encoder has not.
    """
    body = checkpoint.config
    try:
        is_quantized = body.get("quantize_position") is not None
        encoder = _encoder_config(body, _num_layers(checkpoint), is_quantized=is_quantized)
        return TokenizerConfig(
            encoder=encoder,
            quantizer=_quantizer_config(body, is_quantized=is_quantized),
            decoder_layers=body.get("decoder_layers", 2),
        )
    except KeyError as error:
        raise DataError(f"the checkpoint's config.json has no {error}; is it a Whisper?") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"the checkpoint's config.json does not fit: {key}: {first['msg']}, "
            f"got {first['input']!r}"
        ) from error


def load_whisper(
    model: TokenizerModel, state: Mapping[str, Tensor], *, takes_decoder: bool = False
) -> None:
    """Take over the encoder of a Whisper or GLM-4-Voice checkpoint, and its decoder if asked.

    A checkpoint that ends at the quantiser leaves what is above it as it was. One without a second
    position table gives the first rows of its first, as P1 did.

    Args:
        model: Is changed, if everything fits.
        state: Tensors named ``model.encoder.*`` and ``model.decoder.*``.
        takes_decoder: The text ids must be the checkpoint's then.

    Raises:
        DataError: Tensors are missing, unknown or of another shape; names them.
    """
    found = _renamed(model, state)
    own = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(_ENCODER) or (takes_decoder and name.startswith(_DECODER))
    }
    taken = {name: value for name, value in found.items() if name in own}
    needed = {name for name in own if not _may_be_missing(model, name, found)}
    missing = sorted(needed - taken.keys())
    misfits = sorted(name for name, value in taken.items() if value.shape != own[name].shape)
    unknown = sorted(
        name
        for name in found.keys() - own.keys()
        if name.startswith(_ENCODER) or (takes_decoder and name.startswith(_DECODER))
    )
    if missing or misfits or unknown:
        raise DataError(_misfit(model, found, missing, misfits, unknown))
    model.load_state_dict({**model.state_dict(), **taken})


def _encoder_config(
    body: Mapping[str, Any], num_layers: int, *, is_quantized: bool
) -> EncoderConfig:
    """The encoder of a checkpoint."""
    heads, width = body["encoder_attention_heads"], body["d_model"]
    shape = {
        "num_mel_bins": body["num_mel_bins"],
        "d_model": width,
        "num_heads": heads,
        "ffn_dim": body["encoder_ffn_dim"],
        "num_layers": num_layers,
        "max_frames": body["max_source_positions"],
        "window_frames": None,
        "relative_reach": None,
        "shifts_positions": False,
    }
    if not is_quantized:
        half = num_layers // 2
        return EncoderConfig.model_validate(
            shape
            | {
                "pool_kernel": _P1_POOL,
                "pool_after_layer": half,
                "quantize_after_layer": half,
                "block_frames": _P1_BLOCK_FRAMES,
                "is_stem_causal": True,
            }
        )
    position = body["quantize_position"]
    kernel = body.get("pooling_kernel_size") or 1
    if kernel > 1 and body.get("pooling_type", "max") != "avg":
        raise DataError(f"pooling_type must be 'avg', got {body.get('pooling_type', 'max')!r}")
    if body.get("encoder_causal_attention"):
        raise DataError("encoder_causal_attention must be off, as in the released config")
    block = body["quantize_causal_block_size"] if body.get("quantize_causal_encoder") else None
    return EncoderConfig.model_validate(
        shape
        | {
            "pool_kernel": kernel,
            "pool_after_layer": body.get("pooling_position", position) if kernel > 1 else 0,
            "quantize_after_layer": position,
            "block_frames": block,
            "is_stem_causal": bool(body.get("encoder_causal_convolution")),
        }
    )


def _quantizer_config(body: Mapping[str, Any], *, is_quantized: bool) -> QuantizerConfig:
    """The quantiser of a checkpoint; P1's if it has none."""
    if not is_quantized:
        return QuantizerConfig(codebook_size=16_384, commitment=10.0, start_step=0)
    weight = body.get("quantize_commit_coefficient", 0.25) * body.get("quantize_loss_scale", 1.0)
    return QuantizerConfig(
        codebook_size=body["quantize_vocab_size"],
        decay=body.get("quantize_ema_decay") or 0.99,
        commitment=weight,
        restart_every_steps=body.get("quantize_restart_interval") or 100,
        start_step=0,
    )


def _num_layers(checkpoint: Checkpoint) -> int:
    """Layers of the encoder that are there; a tokenizer may be published without the upper ones."""
    prefix = f"{_ENCODER}layers."
    found = {
        int(name.removeprefix(prefix).split(".")[0])
        for name in checkpoint.state
        if name.startswith(prefix)
    }
    return max(found, default=-1) + 1


def _renamed(model: TokenizerModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names, with what follows from them."""
    found = dict(state)
    for name in ("ema_count", "ema_weight"):
        if f"{_ENCODER}{name}" in found:
            found[f"{_ENCODER}codebook.{name}"] = found.pop(f"{_ENCODER}{name}").float()
    weight = found.get(f"{_ENCODER}codebook.weight")
    if weight is not None:
        found.setdefault(f"{_ENCODER}codebook.is_ready", torch.ones((), dtype=torch.bool))
        found.setdefault(f"{_ENCODER}codebook.ema_count", torch.ones(len(weight)))
        found.setdefault(f"{_ENCODER}codebook.ema_weight", weight.float())
    positions = found.get(f"{_ENCODER}embed_positions.weight")
    if positions is not None:
        rows = len(model.encoder.embed_positions2.weight)
        found.setdefault(f"{_ENCODER}embed_positions2.weight", positions[:rows])
    for name, tensor in model.state_dict().items():
        if name.endswith("nearness.weight"):  # Whisper prefers no distance
            found.setdefault(name, torch.zeros_like(tensor))
    return found


def _may_be_missing(model: TokenizerModel, name: str, found: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint need not have a tensor: the codebook, and what is above its end."""
    inner = name.removeprefix(_ENCODER)
    if inner.startswith("codebook."):
        return True
    position = model.encoder.config.quantize_after_layer
    first_above = f"{_ENCODER}layers.{position}."
    if any(other.startswith(first_above) and "nearness" not in other for other in found):
        return False
    layers = nn.ModuleList(model.encoder.layers)
    above = tuple(f"layers.{place}." for place in range(position, len(layers)))
    return inner.startswith(("layer_norm.", *above))


def _misfit(
    model: TokenizerModel,
    found: Mapping[str, Tensor],
    missing: list[str],
    misfits: list[str],
    unknown: list[str],
) -> str:
    """What does not fit, each kind with the first names."""
    own = model.state_dict()
    shapes = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(own[name].shape)}"
        for name in misfits[:3]
    ]
    parts = [
        *([f"missing: {', '.join(missing[:3])} ({len(missing)} in all)"] if missing else []),
        *([f"of another shape: {'; '.join(shapes)} ({len(misfits)} in all)"] if misfits else []),
        *([f"unknown: {', '.join(unknown[:3])} ({len(unknown)} in all)"] if unknown else []),
    ]
    return (
        f"the checkpoint does not fit the encoder: {'. '.join(parts)}; "
        "check d_model, num_layers, num_mel_bins and codebook_size of the config"
    )
