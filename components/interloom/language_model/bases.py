"""Pre-trained text models to start from: taken in, checked, and given rows for speech and markers.

Legend: V rows of a table, D width.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from interloom.config.language_model import LanguageModelConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.language_model.convert import import_hf, shape_of
from interloom.ports.store import ArtifactStore
from interloom.text.bpe import FILE, TextTokenizer
from interloom.training.hugging_face import Checkpoint
from interloom.vocabulary.layout import VocabularyLayout

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_TABLES = ("embedding.weight", "head.weight")
_NOISE = 0.1  # of new rows around the mean, as a part of the old rows' deviation
_FREE = {"max_length", "init_std"}  # what a recipe may set as it likes


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
    found = Checkpoint.at(folder)
    shape = shape_of(found.architecture())
    text = TextTokenizer.load(found.tokenizer)
    weights = import_hf(found.weights(), shape)
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
