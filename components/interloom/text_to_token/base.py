"""Begin from a language model of text in Hugging Face's layout: Llama, Qwen 2 or Qwen 3.

Its embedding keeps its rows; the begin marker, the codes and the voices get new ones, drawn around
the mean of the old. Its output matrix goes: only codes and the end are ever said.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from interloom.config.text_to_token import BaseConfig
from interloom.core.errors import DataError
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.prompt import InputIds
from interloom.training.hugging_face import Architecture, Checkpoint, import_weights

_TABLE = "model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class Base:
    """A language model of text, as its folder holds it.

    Attributes:
        architecture: Of its ``config.json``.
        weights: Its tensors under their own names.
        text_tokenizer: Its ``tokenizer.json``.
    """

    architecture: Architecture
    weights: Mapping[str, Tensor]
    text_tokenizer: TextTokenizer

    @property
    def num_text_ids(self) -> int:
        """Rows of its embedding."""
        return len(self.weights[_TABLE])

    def shape(self, ids: InputIds, num_codes: int, dropout: float) -> ModelShape:
        """The shape of a text-to-token model that begins from it."""
        held = asdict(self.architecture) | {"has_tied_embeddings": False}
        return ModelShape(num_ids=ids.size, num_codes=num_codes, dropout=dropout, **held)

    def pour_into(self, model: TextToTokenModel) -> None:
        """Set all weights of ``model`` that the base has; the new rows must be drawn already.

        Raises:
            DataError: A weight is missing or of another shape.
        """
        headless = replace(self.architecture, has_tied_embeddings=True)
        named = import_weights(self.weights, headless)
        old = named["embedding.weight"].float()
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
    checkpoint = Checkpoint.at(Path(config.folder))
    found = digest_of(checkpoint.files)
    if found != config.sha256:
        raise DataError(
            f"{config.folder} holds another model: expected text_to_token.base.sha256 = "
            f"{config.sha256}, got {found}; if this is the one that you mean, write its digest "
            "into the recipe"
        )
    architecture, weights = checkpoint.architecture(), checkpoint.weights()
    if _TABLE not in weights:
        raise DataError(f"{config.folder} has no {_TABLE!r}, so it is no language model")
    return Base(architecture, weights, TextTokenizer.load(checkpoint.tokenizer))


def digest_of(files: Iterable[Path]) -> str:
    """One digest for files: of their names and contents, in order."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.name} {content}\n".encode())
    return whole.hexdigest()
