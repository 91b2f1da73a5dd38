"""Weights of others as an artifact, to encode with or to begin training from."""

from dataclasses import dataclass
from pathlib import Path

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.ports.store import ArtifactStore
from interloom.speech_tokenizer.artifact import ModelFiles, save_model
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.speech_tokenizer.weights import config_of, load_whisper, read_checkpoint
from interloom.text.bpe import FILE, TextTokenizer

_BYTES = 257  # ids of a text tokenizer that knows bytes and one pair of them


@dataclass(frozen=True, slots=True)
class ImportedTokenizer:
    """A stored checkpoint.

    Attributes:
        ref: Of kind ``tokenizer_model``.
        has_codebook: Whether it gives codes as it is, or has to be trained first.
        num_parameters: Numbers in its encoder.
    """

    ref: ArtifactRef
    has_codebook: bool
    num_parameters: int


def import_tokenizer(folder: Path, *, licence: str, store: ArtifactStore) -> ImportedTokenizer:
    """Store a Whisper or a GLM-4-Voice tokenizer from a folder as Hugging Face publishes it.

    The text ids are those of the folder's ``tokenizer.json``, or else bytes; the heads that read
    codes as text are not part of such a checkpoint and stay untrained.

    Raises:
        MissingError: The folder holds no checkpoint.
        DataError: Its tensors and its ``config.json`` do not fit.
    """
    checkpoint = read_checkpoint(folder)
    config = config_of(checkpoint)
    text = _text_tokenizer(folder)
    model = TokenizerModel(config, text.vocab_size)
    load_whisper(model, checkpoint.state)
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard(FILE) as shard:
            text.save(shard.path)
        text_ref = draft.commit(licences=(licence,))
    files = ModelFiles(
        config=config,
        weights=model.state_dict(),
        text_vocab_size=text.vocab_size,
        speech=None,
        text_tokenizer=text_ref,
        licences=(licence,),
    )
    return ImportedTokenizer(
        save_model(files, (), store=store),
        bool(model.encoder.codebook.is_ready),
        sum(parameter.numel() for parameter in model.encoder.parameters()),
    )


def _text_tokenizer(folder: Path) -> TextTokenizer:
    """The folder's, or one of bytes.

    Raises:
        DataError: ``tokenizer.json`` is not one.
    """
    path = folder / FILE
    if path.is_file():
        return TextTokenizer.load(path)
    return TextTokenizer.train([" a"], vocab_size=_BYTES)
