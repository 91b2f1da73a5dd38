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
import os
import struct
import weakref
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
_RESIDENT_BYTES = 64 << 20  # of mapped pages
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
    """Keeps a process small that looks into many memory-mapped files.

    Where they come to more than a limit, their pages are given back after every so much that was
    touched; the kernel keeps them as long as it has room.
    """

    def __init__(self, most_bytes: int = _RESIDENT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._maps: list[mmap.mmap] = []
        self._mapped_bytes = 0
        self._touched_bytes = 0

    def map(self, path: Path) -> mmap.mmap | None:
        """Map a file for reading; None if it is empty."""
        if not _size(path):
            return None
        with path.open("rb") as file:
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(held)
        self._mapped_bytes += len(held)
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

    @property
    def is_large(self) -> bool:
        """Whether pages have to be given back."""
        return self._mapped_bytes > self._most_bytes

    def touch(self, num_places: int) -> None:
        """Note a look at so many places."""
        if self.is_large:
            self._touched_bytes += num_places * _FAULT_BYTES
            if self._touched_bytes > self._most_bytes:
                self._touched_bytes = 0
                for held in self._maps:
                    held.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, slots=True, eq=False)
class _Index:
    """What an ``.idx`` says, memory-mapped."""

    dtype: np.dtype[Any]
    lengths_S: NDArray[np.int32]
    lengths: memoryview  # the same: single numbers come out faster
    offsets: memoryview  # S, in bytes
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
            np.frombuffer(data, np.int32, sequences, at),
            memoryview(data)[at : at + 4 * sequences].cast("i"),
            memoryview(data)[at + 4 * sequences : at + 12 * sequences].cast("q"),
            np.frombuffer(data, np.int64, bounds, at + 12 * sequences),
        )

    def require_sound(self, path: Path, num_bytes: int) -> None:
        """Refuse an index that points outside of its tokens; looks at both ends in O(1)."""
        ends = 0
        if len(self.lengths):
            ends = self.offsets[-1] + self.lengths[-1] * self.dtype.itemsize
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
    """A ``.bin`` and its ``.idx``: the index memory-mapped, tokens read by number in O(1).

    Tokens are read at their place and not mapped: a process stays small, and a file that is cut
    short while it is open is an error rather than a crash.
    """

    def __init__(self, tokens: Path, index: Path, pages: ResidentPages | None = None) -> None:
        """Look at both files.

        Args:
            tokens: The ``.bin``.
            index: The ``.idx``.
            pages: Shared by all files that one process looks into; its own by default.

        Raises:
            MissingError: One is not there.
            DataError: They are no such pair, were cut short, or do not belong together.
        """
        self._pages = pages or ResidentPages()
        held = _Index.open(index, self._pages)
        size = _size(tokens)
        held.require_sound(tokens, size)
        self.lengths_S = held.lengths_S
        self.first_sequences_D = held.first_sequences_D
        self.num_tokens = size // held.dtype.itemsize
        self._lengths, self._offsets = held.lengths, held.offsets
        self._dtype = held.dtype
        self._item = held.dtype.itemsize
        self._path = tokens
        self._file = os.open(tokens, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.lengths_S)

    @property
    def num_documents(self) -> int:
        """D."""
        return len(self.first_sequences_D) - 1

    def first_token(self, sequence: int) -> int:
        """Where a sequence begins, counted in tokens; of S, the number of all tokens."""
        if sequence == len(self._lengths):
            return self.num_tokens
        return self._offsets[sequence] // self._item

    def sequence(self, number: int) -> Tokens:
        """The tokens of a sequence; they cannot be written.

        Raises:
            DataError: The index points outside of the tokens.
        """
        self._pages.touch(2)
        return self._read(self._offsets[number], self._lengths[number] * self._item)

    def document(self, number: int) -> Tokens:
        """The tokens of all sequences of a document; they cannot be written.

        Raises:
            DataError: The index points outside of the tokens.
        """
        self._pages.touch(2)
        first, last = self.first_sequences_D[number : number + 2].tolist()
        return self.tokens(self.first_token(first), self.first_token(last))

    def tokens(self, start: int, stop: int) -> Tokens:
        """The tokens ``[start, stop)``; they cannot be written.

        Raises:
            DataError: They are not all there.
        """
        return self._read(start * self._item, (stop - start) * self._item)

    def sequence_into(self, number: int, out_T: Any) -> int:
        """Read a sequence to the beginning of ``out_T``, contiguous and of the tokens' type.

        Returns:
            How many tokens it has.

        Raises:
            DataError: They are not all there, or do not fit.
        """
        if self._pages.is_large:
            self._pages.touch(2)
        length: int = self._lengths[number]
        try:
            count = os.preadv(self._file, [out_T[:length]], self._offsets[number])
        except OSError:
            count = -1
        if count != length * self._item or out_T.dtype != self._dtype:
            raise self._refused(self._offsets[number], length, out_T)
        return length

    def tokens_into(self, start: int, stop: int, out_T: Any) -> None:
        """Read the tokens ``[start, stop)`` to the beginning of ``out_T``, as ``sequence_into``.

        Raises:
            DataError: They are not all there, or do not fit.
        """
        count = os.preadv(self._file, [out_T[: stop - start]], start * self._item)
        if count != (stop - start) * self._item or out_T.dtype != self._dtype:
            raise self._refused(start * self._item, stop - start, out_T)

    def _refused(self, at: int, length: int, out_T: Any) -> DataError:
        """Why tokens did not come to lie in ``out_T``."""
        if length > len(out_T) or out_T.dtype != self._dtype:
            return DataError(
                f"{length} tokens of type {self._dtype} do not fit into {len(out_T)} of type "
                f"{out_T.dtype}; the index of {self._path} is damaged, or it is read for other rows"
            )
        return self._torn(at, length * self._item)

    def _read(self, at: int, num_bytes: int) -> Tokens:
        data = os.pread(self._file, num_bytes, at) if min(at, num_bytes) >= 0 else b""
        if len(data) != num_bytes or num_bytes < 0:
            raise self._torn(at, num_bytes)
        return np.frombuffer(data, self._dtype)

    def _torn(self, at: int, num_bytes: int) -> DataError:
        return DataError(
            f"{self._path} does not hold {num_bytes} bytes at {at}: its index is damaged, or it "
            "was cut short; make it anew"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise MissingError(f"{path} does not exist; both files of a token store are needed") from (
            None
        )
