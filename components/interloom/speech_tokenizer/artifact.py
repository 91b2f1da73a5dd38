"""The tokenizer as an artifact: weights, configuration, model card."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from interloom.config.speech_tokenizer import TokenizerConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef, canonical_json, parse_ref
from interloom.core.errors import DataError
from interloom.ports.catalog import Metric
from interloom.ports.store import ArtifactStore
from interloom.speech_tokenizer.model import TokenizerModel

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What an artifact holds; the model is ready for inference."""

    config: TokenizerConfig
    model: TokenizerModel
    text_tokenizer: ArtifactRef


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What is written.

    Attributes:
        speech: What it was trained on; None for weights of others.
        licences: Of weights of others.
    """

    config: TokenizerConfig
    weights: Mapping[str, Tensor]
    text_vocab_size: int
    speech: ArtifactRef | None
    text_tokenizer: ArtifactRef
    seed: int = 0
    licences: tuple[str, ...] = ()


def save_model(
    files: ModelFiles,
    metrics: Sequence[Metric],
    *,
    store: ArtifactStore,
) -> ArtifactRef:
    """Write the artifact; ``metrics`` stand in its card."""
    body = {
        "config": files.config.model_dump(mode="json"),
        "text_tokenizer": f"{files.text_tokenizer.kind}:{files.text_tokenizer.id}",
        "text_vocab_size": files.text_vocab_size,
    }
    with store.draft(ArtifactKind.TOKENIZER_MODEL) as draft:
        with draft.shard(WEIGHTS) as shard:
            tensors = {name: tensor.contiguous() for name, tensor in files.weights.items()}
            save_file(tensors, shard.path)
        with draft.shard(CONFIG) as shard:
            shard.path.write_bytes(canonical_json(body))
        with draft.shard(CARD) as shard:
            shard.path.write_text(_card(files, metrics))
        return draft.commit(
            parents=_parents(files),
            licences=_licences(files, store),
            facts={
                "codebook_size": files.config.quantizer.codebook_size,
                "samples_per_token": files.config.encoder.samples_per_token,
                "seed": files.seed,
                "text_tokenizer": files.text_tokenizer.id,
            },
        )


def _parents(files: ModelFiles) -> tuple[ArtifactRef, ...]:
    """What it was made from."""
    start = files.config.start_from
    found = (files.speech, files.text_tokenizer, None if start is None else parse_ref(start))
    return tuple(ref for ref in found if ref is not None)


def _licences(files: ModelFiles, store: ArtifactStore) -> tuple[str, ...]:
    """Those of the speech and of the weights it began with."""
    found = set(files.licences)
    if files.speech is not None:
        found |= set(store.manifest(files.speech).licences)
    if files.config.start_from is not None:
        found |= set(store.manifest(parse_ref(files.config.start_from)).licences)
    return tuple(sorted(found))


def load_model(store: ArtifactStore, ref: ArtifactRef) -> LoadedModel:
    """Read what ``save_model`` wrote.

    Raises:
        DataError: It is an artifact of another kind, or its files contradict each other.
    """
    if ref.kind is not ArtifactKind.TOKENIZER_MODEL:
        raise DataError(f"{ref} is not a {ArtifactKind.TOKENIZER_MODEL}")
    manifest = store.manifest(ref)
    try:
        body = json.loads(store.local_path(manifest.shard(CONFIG)).read_bytes())
        config = TokenizerConfig.model_validate(body["config"])
        text_tokenizer = parse_ref(body["text_tokenizer"])
        model = TokenizerModel(config, body["text_vocab_size"])
        model.load_state_dict(load_file(store.local_path(manifest.shard(WEIGHTS))))
    except (KeyError, ValidationError, RuntimeError) as error:
        raise DataError(f"{ref} cannot be read by this version: {error}") from error
    model.requires_grad_(requires_grad=False).eval()
    return LoadedModel(config, model, text_tokenizer)


def _card(files: ModelFiles, metrics: Sequence[Metric]) -> str:
    """The model card."""
    encoder, quantizer = files.config.encoder, files.config.quantizer
    num_parameters = sum(tensor.numel() for tensor in files.weights.values())
    origin = "weights of others" if files.speech is None else f"`{files.speech}`"
    rows = "".join(f"| {metric.name} | {metric.value:.4f} |\n" for metric in metrics)
    return f"""# Speech tokenizer

{num_parameters:,} numbers; one of {quantizer.codebook_size} codes for each
{encoder.samples_per_token / 16:.0f} ms of 16 kHz speech. A Whisper-shaped encoder
(width {encoder.d_model}, {encoder.num_layers} layers) is quantised after layer
{encoder.quantize_after_layer}; an attention decoder and a CTC head read the codes back as text.

| held-out speech | |
| --- | --- |
{rows}
Trained on {origin} with text tokenizer `{files.text_tokenizer}`, seed {files.seed}.
It knows the words, voices and language of that corpus, and no others.
"""
