"""The text tokenizer: byte-level BPE of Hugging Face ``tokenizers``, trained or loaded."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.ports.store import ArtifactStore
from interloom.text.memo import Counts, Ids, WordMemo, can_be_cut

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

    def encode_flat(self, texts: Sequence[str]) -> tuple[Ids, Counts]:
        """The ids of all texts, one after another, and how many each text has: the fast way."""
        if self._memo is not None:
            return self._memo.encode(texts)
        encoded = self.encode_batch(texts)
        counts = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.fromiter(chain.from_iterable(encoded), np.int32, int(counts.sum())), counts

    def num_bytes(self, ids: Iterable[int]) -> list[int]:
        """UTF-8 bytes that each id stands for; the byte alphabet spells a byte as a character."""
        return [len(self._tokenizer.id_to_token(one) or "") for one in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of ``ids``, exact even where a character is cut in two.

        Raises:
            DataError: An id is none of this tokenizer's.
        """
        if self._memo is None:
            return self.decode(ids).encode()
        try:
            return b"".join(map(self._bytes.__getitem__, ids))
        except KeyError as error:
            raise DataError(f"{error.args[0]} is no id of the text tokenizer") from error

    @cached_property
    def _memo(self) -> WordMemo | None:
        """Of a tokenizer whose texts may be cut before white space."""
        return WordMemo(self._tokenizer) if can_be_cut(self._tokenizer) else None

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        """What each id stands for; the byte alphabet spells a byte as a character."""
        byte_of = {spelled: byte for byte, spelled in enumerate(_byte_alphabet())}
        vocabulary = self._tokenizer.get_vocab()
        return {
            one: bytes(byte_of[character] for character in token)
            for token, one in vocabulary.items()
        }


def _byte_alphabet() -> str:
    """The character that stands for each byte: itself if it can be seen, else one from U+0100."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in visible else next(hidden)) for byte in range(256))


def load_text_tokenizer(store: ArtifactStore, ref: ArtifactRef) -> TextTokenizer:
    """The text tokenizer of an artifact."""
    return TextTokenizer.load(store.local_path(store.manifest(ref).shard(FILE)))
