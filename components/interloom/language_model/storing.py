"""A language model as an artifact: weights, config with layout, and a card for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PATCH_SIZE, PatchConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.language_model.runtime import CONFIG, WEIGHTS
from interloom.ports.store import ArtifactStore
from interloom.vocabulary.layout import VocabularyLayout

CARD = "README.md"


@dataclass(frozen=True, slots=True, eq=False)
class ModelCard:
    """What a reader of a model wants to know.

    Attributes:
        title: What it is.
        purpose: What it does, in a sentence.
        numbers: Named figures, in order.
    """

    title: str
    purpose: str
    numbers: Mapping[str, float]

    def markdown(self, licences: Sequence[str]) -> str:
        """The card."""
        lines = [f"# {self.title}", "", self.purpose, "", "| figure | value |", "| --- | --- |"]
        lines += [f"| {name} | {value:.6g} |" for name, value in self.numbers.items()]
        lines += ["", f"Licences of the training data: {', '.join(licences) or 'none named'}.", ""]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class StoredModel:
    """All that goes into the artifact."""

    weights: Mapping[str, Tensor]
    config: LanguageModelConfig
    patches: PatchConfig
    layout: VocabularyLayout
    card: ModelCard
    parents: tuple[ArtifactRef, ...]
    licences: tuple[str, ...]
    facts: Mapping[str, Any]


def store_language_model(
    store: ArtifactStore, model: StoredModel, kind: ArtifactKind = ArtifactKind.LANGUAGE_MODEL
) -> ArtifactRef:
    """Commit it; ``load_language_model`` reads it."""
    with store.draft(kind) as draft:
        with draft.shard(WEIGHTS) as shard:
            save_file(
                {name: value.contiguous() for name, value in model.weights.items()}, shard.path
            )
            shard.count(parameters=sum(value.numel() for value in model.weights.values()))
        with draft.shard(CONFIG) as shard:
            body = {
                "layout": model.layout.to_dict(),
                "model": model.config.model_dump(mode="json"),
                "patches": model.patches.model_dump(mode="json"),
            }
            shard.path.write_text(json.dumps(body, indent=1, sort_keys=True))
        with draft.shard(CARD) as shard:
            shard.path.write_text(model.card.markdown(model.licences))
        vocabulary = {"vocabulary": model.layout.digest}
        if model.layout.units is not None:
            vocabulary["plain_vocabulary"] = model.layout.plain.digest
        return draft.commit(
            parents=model.parents,
            licences=model.licences,
            facts=dict(model.facts) | vocabulary | {PATCH_SIZE: model.patches.lasting_size},
        )
