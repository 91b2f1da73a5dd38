"""Megatron's indexed format: tokens back to back in ``.bin``, where they lie in ``.idx``.

Legend: S sequences, D documents. A document is a run of sequences. Numbers are little-endian::

    9 bytes  MMIDIDX, 0, 0     uint64  version 1      uint8  code of the tokens' type
    uint64   S                 uint64  D + 1
    int32    S lengths, in tokens
    int64    S offsets into .bin, in bytes
    int64    D + 1 numbers of the documents' first sequences

A file may go on with one byte a sequence (Megatron's modes), which are ignored.
"""

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.core.errors import DataError, MissingError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPES = MappingProxyType(
    {1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
)
_RESIDENT_BYTES = 64 << 20  # mapped pages are let go after so many bytes were touched
_FAULT_BYTES = 64 << 10  # that the kernel maps around a page which is touched

Tokens = NDArray[np.integer[Any]]


def write_index(
    path: Path, lengths_S: NDArray[np.int64], first_sequences_D: NDArray[np.int64]
) -> None:
    """Write the ``.idx`` of a ``.bin`` that holds int32 tokens back to back.

    Args:
        path: The file.
        lengths_S: Tokens of each sequence.
        first_sequences_D: The first sequence of each document, and S at the end.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths_S[:-1])]) if len(lengths_S) else lengths_S
    with path.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, 1, 4, len(lengths_S), len(first_sequences_D)))
        file.write(lengths_S.astype("<i4").tobytes())
        file.write((4 * offsets).astype("<i8").tobytes())
        file.write(first_sequences_D.astype("<i8").tobytes())


class ResidentPages:
    """Keeps a process small that reads much of large memory-mapped files.

    The pages of all files together are given back after every 64 MiB that were touched; the kernel
    keeps them as long as it has room.
    """

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []
        self._touched_bytes = 0

    def map(self, path: Path) -> mmap.mmap | None:
        """Map a file for reading; None if it is empty."""
        if not _size(path):
            return None
        with path.open("rb") as file:
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(held)
        return held

    def array(self, path: Path, dtype: "np.dtype[Any] | str") -> NDArray[Any]:
        """A file as one array.

        Raises:
            DataError: Its size is no multiple of the type's.
        """
        size, item = _size(path), np.dtype(dtype).itemsize
        if size % item:
            raise DataError(f"{path} has {size} bytes, no multiple of {item}: it was cut short")
        held = self.map(path)
        return np.zeros(0, dtype) if held is None else np.frombuffer(held, dtype)

    def touch(self, num_bytes: int) -> None:
        """Note a read."""
        self._touched_bytes += num_bytes + _FAULT_BYTES
        if self._touched_bytes > _RESIDENT_BYTES:
            self._touched_bytes = 0
            for held in self._maps:
                held.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, slots=True, eq=False)
class _Index:
    """What an ``.idx`` says, memory-mapped."""

    dtype: np.dtype[Any]
    lengths_S: NDArray[np.int32]
    offsets_S: NDArray[np.int64]
    first_sequences_D: NDArray[np.int64]

    @classmethod
    def open(cls, path: Path, pages: ResidentPages) -> "_Index":
        size = _size(path)
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise DataError(f"{path} is no index of tokens: it does not begin with MMIDIDX")
        _, version, code, sequences, bounds = _HEADER.unpack(head)
        if version != 1 or code not in _TYPES:
            raise DataError(
                f"{path} has version {version} and token type {code}; version 1 and types "
                f"{min(_TYPES)} to {max(_TYPES)} can be read"
            )
        need = _HEADER.size + 12 * sequences + 8 * bounds
        if size not in {need, need + sequences}:
            raise DataError(
                f"{path} has {size} bytes; {sequences} sequences and {bounds - 1} documents need "
                f"{need}: it was cut short or damaged; make it anew"
            )
        data = pages.map(path) or b""
        at = _HEADER.size
        return cls(
            np.dtype(_TYPES[code]),
            np.frombuffer(data, "<i4", sequences, at),
            np.frombuffer(data, "<i8", sequences, at + 4 * sequences),
            np.frombuffer(data, "<i8", bounds, at + 12 * sequences),
        )

    def require_sound(self, path: Path, num_bytes: int) -> None:
        """Refuse an index that points outside of its tokens; looks at both ends in O(1)."""
        ends = 0
        if len(self.lengths_S):
            ends = int(self.offsets_S[-1]) + int(self.lengths_S[-1]) * self.dtype.itemsize
        if num_bytes != ends:
            raise DataError(
                f"{path} has {num_bytes} bytes, its index ends at {ends}: it was cut short, or the "
                "two files are not of one store; make it anew"
            )
        bounds = self.first_sequences_D
        if not len(bounds) or bounds[0] != 0 or bounds[-1] != len(self.lengths_S):
            raise DataError(
                f"the index of {path} has documents that do not cover its {len(self.lengths_S)} "
                "sequences; make it anew"
            )


class IndexedTokens:
    """A ``.bin`` and its ``.idx``, memory-mapped. Reading is by number, in O(1)."""

    def __init__(self, tokens: Path, index: Path, pages: ResidentPages | None = None) -> None:
        """Map both files.

        Args:
            tokens: The ``.bin``.
            index: The ``.idx``.
            pages: Shared by all files that one process reads; its own by default.

        Raises:
            MissingError: One is not there.
            DataError: They are no such pair, were cut short, or do not belong together.
        """
        self._pages = pages or ResidentPages()
        held = _Index.open(index, self._pages)
        held.require_sound(tokens, _size(tokens))
        self.lengths_S = held.lengths_S
        self.first_sequences_D = held.first_sequences_D
        self._offsets_S = held.offsets_S
        self._item = held.dtype.itemsize
        self._file = tokens
        self._tokens: Tokens = self._pages.array(tokens, held.dtype)

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.lengths_S)

    @property
    def num_documents(self) -> int:
        """D."""
        return len(self.first_sequences_D) - 1

    @property
    def num_tokens(self) -> int:
        """All tokens."""
        return len(self._tokens)

    def first_token(self, sequence: int) -> int:
        """Where a sequence begins, counted in tokens; of S, the number of all tokens.

        Raises:
            DataError: The index points outside of the tokens.
        """
        if sequence == len(self.lengths_S):
            return len(self._tokens)
        place, rest = divmod(int(self._offsets_S[sequence]), self._item)
        if rest or not 0 <= place <= len(self._tokens) - int(self.lengths_S[sequence]):
            raise DataError(
                f"the index of {self._file} points outside of it at sequence {sequence}; it is "
                "damaged: make it anew"
            )
        return place

    def sequence(self, number: int) -> Tokens:
        """The tokens of a sequence, a view that cannot be written.

        Raises:
            DataError: The index points outside of the tokens.
        """
        start = self.first_token(number)
        return self.tokens(start, start + int(self.lengths_S[number]))

    def document(self, number: int) -> Tokens:
        """The tokens of all sequences of a document, as one view.

        Raises:
            DataError: The index points outside of the tokens.
        """
        first, last = int(self.first_sequences_D[number]), int(self.first_sequences_D[number + 1])
        return self.tokens(self.first_token(first), self.first_token(last))

    def tokens(self, start: int, stop: int) -> Tokens:
        """The tokens ``[start, stop)``, a view that cannot be written."""
        self._pages.touch((stop - start) * self._item)
        return self._tokens[start:stop]


def concatenated(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Bounds of parts that stand back to back: 0, and where each ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(lengths, np.int64))])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise MissingError(f"{path} does not exist; both files of a token store are needed") from (
            None
        )
