"""The shards of a text-to-token model: weights, configuration, card."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file, save_file

from interloom.core.artifacts import ArtifactKind, ArtifactRef, canonical_json
from interloom.core.errors import DataError
from interloom.ports.store import ArtifactDraft, ArtifactStore
from interloom.text.bpe import load_text_tokenizer
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.prompt import Prompter
from interloom.vocabulary.layout import VocabularyLayout

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.json"


def save_model(
    draft: ArtifactDraft, model: TextToTokenModel, prompter: Prompter, card: Mapping[str, Any]
) -> None:
    """Write the shards; the same model gives the same bytes."""
    weights = model.state_dict()
    with draft.shard(WEIGHTS) as shard:
        save_file({name: value.contiguous() for name, value in weights.items()}, shard.path)
        shard.count(parameters=sum(value.numel() for value in weights.values()))
    body = {
        "frames_per_byte": prompter.frames_per_byte,
        "layout": prompter.layout.to_dict(),
        "shape": dataclasses.asdict(model.shape),
        "spoken_ids": sorted(prompter.spoken_ids),
        "voices": list(prompter.voices),
    }
    with draft.shard(CONFIG) as shard:
        shard.path.write_bytes(canonical_json(body))
    with draft.shard(CARD) as shard:
        shard.path.write_bytes(canonical_json(dict(card)))


def load_model(store: ArtifactStore, ref: ArtifactRef) -> tuple[TextToTokenModel, Prompter]:
    """The model in evaluation mode, and the maker of its prompts.

    Raises:
        DataError: ``ref`` is no text-to-token model, or its weights do not fit its configuration.
    """
    if ref.kind is not ArtifactKind.TEXT_TO_TOKEN_MODEL:
        raise DataError(f"expected a {ArtifactKind.TEXT_TO_TOKEN_MODEL}, got {ref}")
    manifest = store.manifest(ref)
    body = json.loads(store.local_path(manifest.shard(CONFIG)).read_bytes())
    layout = VocabularyLayout.from_dict(body["layout"])
    text_ref = ArtifactRef(ArtifactKind.TEXT_TOKENIZER, layout.text_tokenizer)
    prompter = Prompter(
        layout=layout,
        voices=tuple(body["voices"]),
        frames_per_byte=body["frames_per_byte"],
        spoken_ids=frozenset(body["spoken_ids"]),
        text_tokenizer=load_text_tokenizer(store, text_ref),
    )
    model = TextToTokenModel(ModelShape(**body["shape"]))
    try:
        model.load_state_dict(load_file(store.local_path(manifest.shard(WEIGHTS))))
    except RuntimeError as error:
        raise DataError(f"the weights of {ref} do not fit its config.json: {error}") from error
    return model.eval(), prompter
