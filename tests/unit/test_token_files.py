"""Megatron's indexed format: read, written, refused."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from interloom.core.errors import DataError, MissingError
from interloom.mixture.indexed import IndexedTokens, write_index

SEQUENCES = [[5, 6, 7], [8], [1, 2], [3, 4, 9, 9]]


def _write(folder: Path, sequences: list[list[int]], bounds: list[int]) -> IndexedTokens:
    flat = [token for sequence in sequences for token in sequence]
    np.array(flat, "<i4").tofile(folder / "t.bin")
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    write_index(folder / "t.idx", lengths, np.array(bounds))
    return IndexedTokens(folder / "t.bin", folder / "t.idx")


def test_sequences_and_documents_come_back(tmp_path: Path) -> None:
    held = _write(tmp_path, SEQUENCES, [0, 1, 3, 4])

    assert (held.num_sequences, held.num_documents, held.num_tokens) == (4, 3, 10)
    assert [held.sequence(n).tolist() for n in range(4)] == SEQUENCES
    assert held.document(1).tolist() == [8, 1, 2]
    assert held.document(2).tolist() == [3, 4, 9, 9]


@pytest.fixture(scope="module")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=9), max_size=9))
def test_any_sequences_come_back(empty_folder: Path, sequences: list[list[int]]) -> None:
    held = _write(empty_folder, sequences, [0, len(sequences)])

    assert [held.sequence(n).tolist() for n in range(len(sequences))] == sequences


def test_a_store_that_megatron_wrote_can_be_read(tmp_path: Path) -> None:
    """Byte for byte what megatron-core 0.16's builder writes for uint16 tokens with modes."""
    np.array([7, 8, 9, 65535], "<u2").tofile(tmp_path / "m.bin")
    body = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 2, 3)
    body += np.array([3, 1], "<i4").tobytes() + np.array([0, 6], "<i8").tobytes()
    (tmp_path / "m.idx").write_bytes(body + np.array([0, 1, 2], "<i8").tobytes() + b"\x00\x01")

    held = IndexedTokens(tmp_path / "m.bin", tmp_path / "m.idx")

    assert [held.sequence(n).tolist() for n in (0, 1)] == [[7, 8, 9], [65535]]


def test_megatrons_own_reader_and_builder_agree_with_ours(tmp_path: Path) -> None:
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    ours = _write(tmp_path, SEQUENCES, [0, 1, 3, 4])

    theirs = megatron.IndexedDataset(str(tmp_path / "t"))
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "m.bin"), dtype=np.int32)
    for first, last in ((0, 1), (1, 3), (3, 4)):
        flat = np.concatenate([np.array(one, np.int32) for one in SEQUENCES[first:last]])
        builder.add_document(flat, [len(one) for one in SEQUENCES[first:last]])
    builder.finalize(str(tmp_path / "m.idx"))

    assert [theirs[n].tolist() for n in range(len(theirs))] == SEQUENCES
    assert theirs.document_indices.tolist() == [0, 1, 3, 4]
    for end in ("bin", "idx"):
        assert (tmp_path / f"m.{end}").read_bytes() == (tmp_path / f"t.{end}").read_bytes()
    assert ours.num_documents == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    _write(tmp_path, SEQUENCES, [0, 4])
    (tmp_path / "t.bin").unlink()

    with pytest.raises(MissingError, match=r"t\.bin does not exist; both files"):
        IndexedTokens(tmp_path / "t.bin", tmp_path / "t.idx")


def _poke(path: Path, at: int, value: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)


def test_an_index_that_points_outside_is_refused_when_it_is_read(tmp_path: Path) -> None:
    _write(tmp_path, SEQUENCES, [0, 4])
    _poke(tmp_path / "t.idx", 34 + 4 * 4 + 8, struct.pack("<q", 400))  # offset of sequence 1

    held = IndexedTokens(tmp_path / "t.bin", tmp_path / "t.idx")

    with pytest.raises(DataError, match=r"does not hold 4 bytes at 400: its index is damaged"):
        held.sequence(1)


def test_a_file_that_is_cut_short_while_it_is_open_is_an_error_and_no_crash(tmp_path: Path) -> None:
    held = _write(tmp_path, SEQUENCES, [0, 4])
    (tmp_path / "t.bin").write_bytes((tmp_path / "t.bin").read_bytes()[:20])

    with pytest.raises(DataError, match=r"does not hold 16 bytes at 24: .* cut short"):
        held.sequence(3)


def test_a_sequence_is_read_into_a_row(tmp_path: Path) -> None:
    held = _write(tmp_path, SEQUENCES, [0, 1, 3, 4])
    row = np.full(6, -1, np.int32)

    assert held.sequence_into(3, row) == 4
    held.tokens_into(3, 5, row)

    assert row.tolist() == [8, 1, 9, 9, -1, -1]


@pytest.mark.parametrize("row", [np.zeros(3, np.int32), np.zeros(9, np.int64)])
def test_a_row_that_does_not_take_a_sequence_is_refused(
    row: NDArray[np.int64], tmp_path: Path
) -> None:
    held = _write(tmp_path, SEQUENCES, [0, 1, 3, 4])

    with pytest.raises(DataError, match=r"4 tokens of type int32 do not fit into"):
        held.sequence_into(3, row)


def test_documents_that_do_not_cover_the_sequences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not cover its 4 sequences"):
        _write(tmp_path, SEQUENCES, [0, 3])


_READ_ALL = """
import sys
from pathlib import Path
from interloom.mixture.indexed import IndexedTokens
held = IndexedTokens(Path(sys.argv[1]), Path(sys.argv[2]))
total = sum(int(held.sequence(n)[::1024].sum()) for n in range(held.num_sequences))
status = Path("/proc/self/status").read_text()
print(total, status.split("VmHWM:")[1].split()[0])
"""


def test_a_reader_stays_under_200_mb_however_large_the_store(tmp_path: Path) -> None:
    with (tmp_path / "t.bin").open("wb") as file:
        file.truncate(1 << 30)  # a hole: no disk is used
    lengths = np.full(1 << 12, 1 << 16)
    write_index(tmp_path / "t.idx", lengths, np.array([0, len(lengths)]))

    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(tmp_path / "t.bin"), str(tmp_path / "t.idx")],
        check=True,
        capture_output=True,
        text=True,
    )

    total, peak_kib = map(int, done.stdout.split())
    assert total == 0
    assert peak_kib * 1024 < 200e6
