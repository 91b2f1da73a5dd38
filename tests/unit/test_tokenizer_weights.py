"""Weights of others: numerics equal to theirs, ids equal to a plain reference, misfits refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F  # noqa: N812 - its usual name
from transformers import WhisperConfig, WhisperModel

from interloom.config.speech_tokenizer import EncoderConfig, TokenizerConfig
from interloom.core.errors import DataError, MissingError
from interloom.speech_tokenizer.carried import CarriedEncoder
from interloom.speech_tokenizer.importing import import_tokenizer
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.speech_tokenizer.runtime import load_speech_tokenizer
from interloom.speech_tokenizer.weights import (
    Checkpoint,
    config_of,
    load_whisper,
    read_checkpoint,
)
from interloom.testing.store import MemoryStore

SIZES = {
    "tiny": {"d_model": 384, "layers": 4, "heads": 6, "num_mel_bins": 80, "frames": 1500},
    "narrow, 128 bins": {"d_model": 64, "layers": 3, "heads": 2, "num_mel_bins": 128, "frames": 96},
}


def _whisper(size: dict[str, int], vocab_size: int = 300) -> WhisperModel:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=size["d_model"],
        num_mel_bins=size["num_mel_bins"],
        max_source_positions=size["frames"],
        encoder_layers=size["layers"],
        decoder_layers=size["layers"],
        encoder_attention_heads=size["heads"],
        decoder_attention_heads=size["heads"],
        encoder_ffn_dim=4 * size["d_model"],
        decoder_ffn_dim=4 * size["d_model"],
        vocab_size=vocab_size,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    model = WhisperModel(config).eval()
    for parameter in model.parameters():  # biases and norms begin with zeros and ones
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return model


def _bidirectional(size: dict[str, int], **changes: Any) -> TokenizerConfig:
    encoder = EncoderConfig(
        num_mel_bins=80 if size["num_mel_bins"] == 80 else 128,
        d_model=size["d_model"],
        num_heads=size["heads"],
        ffn_dim=4 * size["d_model"],
        num_layers=size["layers"],
        pool_kernel=1,
        pool_after_layer=0,
        quantize_after_layer=size["layers"],
        block_frames=None,
        window_frames=None,
        is_stem_causal=False,
        max_frames=size["frames"],
        relative_reach=changes.pop("relative_reach", None),
    )
    return TokenizerConfig(encoder=encoder, decoder_layers=size["layers"], dropout=0.0)


def _state(model: WhisperModel) -> dict[str, torch.Tensor]:
    return {f"model.{name}": value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("relative_reach", [None, 4])
@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_encoder_and_decoder_have_the_numbers_of_transformers_whisper(
    name: str, relative_reach: int | None
) -> None:
    theirs = _whisper(SIZES[name])
    ours = TokenizerModel(_bidirectional(SIZES[name], relative_reach=relative_reach), 298).eval()
    load_whisper(ours, _state(theirs), takes_decoder=True)
    frames = SIZES[name]["frames"]
    mel = torch.randn(1, 2 * frames, SIZES[name]["num_mel_bins"])
    ids = torch.tensor([[3, 7, 9, 250, 11]])

    states = ours.encoder.layer_norm(ours.encoder.below(mel, torch.tensor([frames])))
    hidden = ours.decoder.hidden(ids, states, torch.ones(1, frames, dtype=torch.bool))

    expected = theirs(input_features=mel.transpose(1, 2), decoder_input_ids=ids)
    torch.testing.assert_close(states, expected.encoder_last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden, expected.last_hidden_state, atol=1e-5, rtol=1e-5)


GLM: dict[str, Any] = {
    "num_mel_bins": 80,
    "d_model": 32,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "encoder_layers": 4,
    "max_source_positions": 48,
    "pooling_kernel_size": 4,
    "pooling_type": "avg",
    "pooling_position": 2,
    "quantize_position": 2,
    "quantize_vocab_size": 40,
    "quantize_ema_decay": 0.98,
    "quantize_commit_coefficient": 0.5,
    "quantize_loss_scale": 20.0,
    "quantize_restart_interval": 50,
    "quantize_causal_encoder": True,
    "quantize_causal_block_size": 16,
    "encoder_causal_convolution": True,
    "encoder_causal_attention": False,
    "quantize_encoder_only": True,
    "skip_language_detection": True,
}


def _glm_state(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random tensors in the published layout; only the layers that make tokens."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    width, ffn, bins = config["d_model"], config["encoder_ffn_dim"], config["num_mel_bins"]
    shapes = {
        "conv1.weight": (width, bins, 3),
        "conv1.bias": (width,),
        "conv2.weight": (width, width, 3),
        "conv2.bias": (width,),
        "embed_positions.weight": (config["max_source_positions"], width),
        "embed_positions2.weight": (-(-config["max_source_positions"] // 4), width),
        "codebook.weight": (config["quantize_vocab_size"], width),
        "ema_weight": (config["quantize_vocab_size"], width),
    }
    for layer in range(config["quantize_position"]):
        for name, shape in {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (width, width),
            "self_attn.v_proj": (width, width),
            "self_attn.out_proj": (width, width),
            "self_attn_layer_norm": (width,),
            "fc1": (ffn, width),
            "fc2": (width, ffn),
            "final_layer_norm": (width,),
        }.items():
            shapes[f"layers.{layer}.{name}.weight"] = shape
            if name != "self_attn.k_proj":
                shapes[f"layers.{layer}.{name}.bias"] = shape[:1]
    state = {f"model.encoder.{name}": drawn(*shape) for name, shape in shapes.items()}
    counts = torch.rand(config["quantize_vocab_size"], generator=generator)
    return state | {
        "model.encoder.ema_count": counts,
        "model.decoder.layer_norm.bias": drawn(width),
    }


def _reference_ids(state: dict[str, torch.Tensor], mel_MF: torch.Tensor) -> torch.Tensor:
    """The published tokenizer's rules, written out for one utterance that fills its length."""

    def tensor(name: str) -> torch.Tensor:
        return state[f"model.encoder.{name}"].double()

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        bias = state.get(f"model.encoder.{name}.bias")
        return x @ tensor(f"{name}.weight").T + (0 if bias is None else bias.double())

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], tensor(f"{name}.weight"), tensor(f"{name}.bias"))

    x = mel_MF.double()
    for name, stride in (("conv1", 1), ("conv2", 2)):
        padded = F.pad(x, (2, 0))
        weight = tensor(f"{name}.weight")
        steps = [
            (weight * padded[None, :, place : place + 3]).sum((1, 2)) + tensor(f"{name}.bias")
            for place in range(0, x.shape[1], stride)
        ]
        x = F.gelu(torch.stack(steps, 1))
    x = x.T + tensor("embed_positions.weight")[: x.shape[1]]
    length, block, heads = len(x), GLM["quantize_causal_block_size"], 4
    for layer in range(GLM["quantize_position"]):
        name = f"layers.{layer}"
        normed = norm(f"{name}.self_attn_layer_norm", x)
        query, key, value = (
            linear(f"{name}.self_attn.{part}", normed).reshape(length, heads, -1)
            for part in ("q_proj", "k_proj", "v_proj")
        )
        attended = torch.zeros_like(value)
        for place in range(length):
            seen = max(place + 1, (place // block + 1) * block)
            for head in range(heads):
                scores = key[:seen, head] @ query[place, head] / query.shape[-1] ** 0.5
                attended[place, head] = scores.softmax(0) @ value[:seen, head]
        x = x + linear(f"{name}.self_attn.out_proj", attended.reshape(length, -1))
        hidden = F.gelu(linear(f"{name}.fc1", norm(f"{name}.final_layer_norm", x)))
        x = x + linear(f"{name}.fc2", hidden)
    pooled = x.reshape(length // 4, 4, -1).mean(1)
    return torch.cdist(pooled, tensor("codebook.weight")).argmin(1)


def _glm(tmp_path: Path, **changes: Any) -> Path:
    config = GLM | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(_glm_state(config), tmp_path / "model.safetensors")
    return tmp_path


def test_the_released_tokenizers_layout_gives_the_ids_of_a_plain_reference(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(_glm(tmp_path))
    config = config_of(checkpoint)
    model = TokenizerModel(config, 10).eval()

    load_whisper(model, checkpoint.state)

    encoder = model.encoder
    assert config.quantizer.commitment == 10.0
    assert (config.encoder.block_frames, config.encoder.pool_kernel) == (16, 4)
    mel = torch.randn(96, 80, generator=torch.Generator().manual_seed(4))
    expected = _reference_ids(dict(checkpoint.state), mel.T)
    whole = encoder.codebook.nearest(encoder.below(mel[None], torch.tensor([12]))[0])
    carried = CarriedEncoder(encoder)
    state, codes = carried.start(1), []
    for start in range(0, 96, 32):
        block, count = mel[None, start : start + 32].numpy(), torch.tensor([4]).numpy()
        vectors, state = carried.step(state, block, count)
        codes.append(encoder.codebook.nearest(vectors[0]))
    assert len(set(expected.tolist())) > 3
    assert torch.equal(whole, expected)
    assert torch.equal(torch.cat(codes), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling_type": "max"}, "pooling_type must be 'avg', got 'max'"),
        ({"encoder_causal_attention": True}, "encoder_causal_attention must be off"),
        ({"pooling_kernel_size": 3}, r"pool_kernel: Input should be 1, 2, 4 or 8, got 3"),
    ],
)
def test_a_configuration_that_the_encoder_has_not_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    checkpoint = Checkpoint(GLM | changes, _glm_state(GLM))

    with pytest.raises(DataError, match=message):
        config_of(checkpoint)


def test_a_plain_whisper_becomes_p1s_tokenizer_without_a_codebook() -> None:
    theirs = _whisper(SIZES["narrow, 128 bins"])
    checkpoint = Checkpoint(theirs.config.to_dict(), _state(theirs))

    config = config_of(checkpoint)
    model = TokenizerModel(config.model_copy(update={"decoder_layers": 1}), 10)
    load_whisper(model, checkpoint.state)

    assert (config.encoder.quantize_after_layer, config.encoder.block_frames) == (1, 200)
    assert (config.quantizer.codebook_size, config.quantizer.commitment) == (16_384, 10.0)
    assert not bool(model.encoder.codebook.is_ready)
    first = checkpoint.state["model.encoder.embed_positions.weight"][:24]
    assert torch.equal(model.encoder.embed_positions2.weight, first)


def test_weights_that_do_not_fit_are_refused_by_name_and_nothing_is_changed() -> None:
    theirs = _whisper(SIZES["narrow, 128 bins"])
    model = TokenizerModel(_bidirectional(SIZES["narrow, 128 bins"]), 10)
    before = model.encoder.conv2.weight.clone()
    state = _state(theirs)
    state["model.encoder.conv1.weight"] = torch.zeros(1)
    del state["model.encoder.layers.1.fc1.bias"]
    state["model.encoder.layers.7.fc1.bias"] = torch.zeros(1)

    with pytest.raises(
        DataError,
        match=r"missing: model\.encoder\.layers\.1\.fc1\.bias.*conv1\.weight is \(1,\), expected "
        r"\(64, 128, 3\).*unknown: model\.encoder\.layers\.7\.fc1\.bias.*check d_model",
    ):
        load_whisper(model, state)
    assert torch.equal(model.encoder.conv2.weight, before)


def test_a_codebook_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(_glm(tmp_path))
    config = config_of(checkpoint)
    quantizer = config.quantizer.model_copy(update={"codebook_size": 50})
    model = TokenizerModel(config.model_copy(update={"quantizer": quantizer}), 10)

    with pytest.raises(DataError, match=r"codebook\.\w+ is \(40,( 32)?\).*codebook_size"):
        load_whisper(model, checkpoint.state)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"holds no config\.json with \*\.safetensors"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        read_checkpoint(tmp_path)


def test_a_configuration_of_something_else_is_refused() -> None:
    with pytest.raises(DataError, match=r"has no 'encoder_attention_heads'; is it a Whisper\?"):
        config_of(Checkpoint({}, {}))


def test_a_checkpoint_becomes_an_artifact_that_encodes(tmp_path: Path) -> None:
    store = MemoryStore()

    imported = import_tokenizer(_glm(tmp_path), licence="Apache-2.0", store=store)

    tokenizer = load_speech_tokenizer(store, imported.ref)
    codes = tokenizer.encode([np.full(9000, 0.1, np.float32)])[0]
    assert imported.has_codebook
    assert len(codes) == 8
    assert store.manifest(imported.ref).licences == ("Apache-2.0",)
    card = store.local_path(store.manifest(imported.ref).shard("README.md")).read_text()
    assert "Trained on weights of others" in card


def test_a_whisper_without_a_codebook_cannot_encode_yet(tmp_path: Path) -> None:
    theirs = _whisper(SIZES["narrow, 128 bins"])
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    save_file({n: v.contiguous() for n, v in _state(theirs).items()}, tmp_path / "x.safetensors")
    store = MemoryStore()

    imported = import_tokenizer(tmp_path, licence="MIT", store=store)

    assert not imported.has_codebook
    with pytest.raises(DataError, match=r"no codebook yet.*tokenizer\.start_from"):
        load_speech_tokenizer(store, imported.ref).encode([np.zeros(5000, np.float32)])
