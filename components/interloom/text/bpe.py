"""The text tokenizer: byte-level BPE of Hugging Face ``tokenizers``, trained or loaded."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.ports.store import ArtifactStore

FILE = "tokenizer.json"


class TextTokenizer:
    """Text to ids and back, losslessly (byte level, no normaliser)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> "TextTokenizer":
        """Train byte-level BPE; the same texts in the same order give the same tokenizer."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer=trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> "TextTokenizer":
        """Read a ``tokenizer.json``.

        Raises:
            DataError: The file is not one.
        """
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:
            raise DataError(f"{path.name} is not a tokenizer.json: {error}") from error

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._tokenizer.save(str(path))

    @property
    def vocab_size(self) -> int:
        """Number of text ids."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(one.ids) for one in encoded]

    def num_bytes(self, ids: Iterable[int]) -> list[int]:
        """UTF-8 bytes that each id stands for; the byte alphabet spells a byte as a character."""
        return [len(self._tokenizer.id_to_token(one) or "") for one in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def load_text_tokenizer(store: ArtifactStore, ref: ArtifactRef) -> TextTokenizer:
    """The text tokenizer of an artifact."""
    return TextTokenizer.load(store.local_path(store.manifest(ref).shard(FILE)))
