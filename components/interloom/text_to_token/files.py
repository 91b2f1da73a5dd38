"""The shards of a text-to-token model: weights, configuration, card, a base's text tokenizer."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file, save_file

from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, canonical_json
from interloom.core.errors import DataError
from interloom.ports.store import ArtifactDraft, ArtifactStore
from interloom.text.bpe import FILE as TEXT_TOKENIZER
from interloom.text.bpe import TextTokenizer, load_text_tokenizer
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.prompt import Prompter

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.json"


def save_model(
    draft: ArtifactDraft, model: TextToTokenModel, prompter: Prompter, card: Mapping[str, Any]
) -> None:
    """Write the shards; the same model gives the same bytes.

    The text tokenizer is written only if it is not the one that the layout names.
    """
    weights = model.state_dict()
    with draft.shard(WEIGHTS) as shard:
        save_file({name: value.contiguous() for name, value in weights.items()}, shard.path)
        shard.count(parameters=sum(value.numel() for value in weights.values()))
    body = prompter.to_dict() | {"shape": dataclasses.asdict(model.shape)}
    with draft.shard(CONFIG) as shard:
        shard.path.write_bytes(canonical_json(body))
    with draft.shard(CARD) as shard:
        shard.path.write_bytes(canonical_json(dict(card)))
    if prompter.frames_per_byte is None:
        with draft.shard(TEXT_TOKENIZER) as shard:
            prompter.text_tokenizer.save(shard.path)


def load_model(store: ArtifactStore, ref: ArtifactRef) -> tuple[TextToTokenModel, Prompter]:
    """The model in evaluation mode, and the maker of its prompts.

    Raises:
        DataError: ``ref`` is no text-to-token model, or its weights do not fit its configuration.
    """
    if ref.kind is not ArtifactKind.TEXT_TO_TOKEN_MODEL:
        raise DataError(f"expected a {ArtifactKind.TEXT_TO_TOKEN_MODEL}, got {ref}")
    manifest = store.manifest(ref)
    body = json.loads(store.local_path(manifest.shard(CONFIG)).read_bytes())
    prompter = Prompter.from_dict(body, _text_tokenizer(store, manifest, body))
    model = TextToTokenModel(ModelShape(**body["shape"]))
    try:
        model.load_state_dict(load_file(store.local_path(manifest.shard(WEIGHTS))))
    except RuntimeError as error:
        raise DataError(f"the weights of {ref} do not fit its config.json: {error}") from error
    return model.eval(), prompter


def _text_tokenizer(
    store: ArtifactStore, manifest: Manifest, body: Mapping[str, Any]
) -> TextTokenizer:
    """The base's own, or the one that the layout names."""
    if body["frames_per_byte"] is None:
        return TextTokenizer.load(store.local_path(manifest.shard(TEXT_TOKENIZER)))
    named = ArtifactRef(ArtifactKind.TEXT_TOKENIZER, body["layout"]["text_tokenizer"])
    return load_text_tokenizer(store, named)
