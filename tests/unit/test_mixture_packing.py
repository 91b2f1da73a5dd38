"""Cutting, packing and the order of rows."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interloom.core.errors import DataError
from interloom.core.spans import Span
from interloom.mixture.cutting import cut
from interloom.mixture.examples import Example
from interloom.mixture.order import RowOrder
from interloom.mixture.packing import pack_best_fit
from interloom.mixture.rows import MemoryRows

BEGIN, END, PAD = 100, 101, 99


def _ids(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, np.int32)


def test_the_longest_goes_first_and_each_into_the_tightest_row() -> None:
    # 7 opens row 0 (3 free), 6 row 1 (4 free), 4 fills row 1, 3 fills row 0, 2 opens row 2
    packing = pack_best_fit([2, 7, 4, 3, 6], row_length=10)

    assert packing.rows_P.tolist() == [2, 0, 1, 0, 1]
    assert packing.starts_P.tolist() == [0, 0, 6, 7, 0]
    assert packing.num_rows == 3


@given(st.lists(st.integers(1, 32), max_size=200))
def test_every_piece_is_placed_once_and_none_overlap(lengths: list[int]) -> None:
    packing = pack_best_fit(lengths, row_length=32)

    places = np.zeros((packing.num_rows, 32), np.int64)
    for row, start, length in zip(packing.rows_P, packing.starts_P, lengths, strict=True):
        assert start + length <= 32
        places[row, start : start + length] += 1
    assert places.max(initial=0) <= 1
    assert places.sum() == sum(lengths)


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "packing.py"


@given(st.lists(st.integers(1, 32), min_size=1, max_size=200))
def test_best_fit_needs_as_many_rows_as_the_benchmarks_search_over_all_rows(
    lengths: list[int],
) -> None:
    search = runpy.run_path(str(BENCHMARK))["linear_best_fit"]

    assert pack_best_fit(lengths, row_length=32).num_rows == search(lengths, 32)


def test_many_documents_fill_the_rows() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    lengths = np.clip(rng.lognormal(4.0, 0.8, 20_000), 4, 2048).astype(np.int64)

    packing = pack_best_fit(lengths, row_length=2048)

    assert lengths.sum() / (packing.num_rows * 2048) > 0.99


@pytest.mark.parametrize("length", [0, 11])
def test_a_piece_that_fits_no_row_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=f"piece 1 has {length} tokens, a row holds 1 to 10"):
        pack_best_fit([3, length], row_length=10)


def test_text_is_cut_anywhere_but_speech_never() -> None:
    ids = _ids(1, 2, 3, BEGIN, 200, 201, END, 4, 5)

    assert cut(ids, 5, begin=BEGIN, end=END) == (Span(0, 3), Span(3, 8), Span(8, 9))
    assert cut(_ids(1, 2, 3, 4, 5), 2, begin=BEGIN, end=END) == (Span(0, 2), Span(2, 4), Span(4, 5))
    assert cut(ids, 9, begin=BEGIN, end=END) == (Span(0, 9),)


def test_speech_longer_than_a_row_allows_no_cut() -> None:
    assert cut(_ids(1, BEGIN, 200, 201, 202, END), 4, begin=BEGIN, end=END) is None


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(8, 20))
def test_pieces_cover_the_document_and_keep_utterances_whole(
    runs: list[int], row_length: int
) -> None:
    parts = [[1] * n if i % 2 else [BEGIN, *[200] * n, END] for i, n in enumerate(runs)]
    ids = np.array([token for part in parts for token in part], np.int32)

    pieces = cut(ids, row_length, begin=BEGIN, end=END)

    assert pieces is not None
    assert np.concatenate([ids[p.start : p.stop] for p in pieces]).tolist() == ids.tolist()
    for piece in pieces:
        own = ids[piece.start : piece.stop]
        assert piece.length <= row_length
        assert (own == BEGIN).sum() == (own == END).sum()


@given(st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 3))
def test_each_epoch_of_the_order_holds_every_row_once(num_rows: int, seed: int, epoch: int) -> None:
    rows = RowOrder(num_rows, seed).epoch(epoch)

    assert sorted(rows.tolist()) == list(range(num_rows))


def test_epochs_and_seeds_differ_in_order() -> None:
    first, second = RowOrder(100, 7).epoch(0), RowOrder(100, 7).epoch(1)
    other = RowOrder(100, 8).epoch(0)

    assert first.tolist() != second.tolist()
    assert first.tolist() != other.tolist()
    assert np.abs(np.corrcoef(first, np.arange(100))[0, 1]) < 0.3


def test_a_row_says_where_its_documents_lie() -> None:
    long = Example("a", _ids(1, 2, 3, 4), np.array([True, False, True, True]), "CC0-1.0")
    short = Example.after("b", _ids(5, 6), 1, "CC0-1.0")

    rows = MemoryRows([("x", short), ("y", long)], row_length=8, pad=PAD)
    batch = rows.batch([0])

    assert batch.tokens_BL.tolist() == [[1, 2, 3, 4, 5, 6, PAD, PAD]]
    assert batch.segments_BL.tolist() == [[0, 0, 0, 0, 1, 1, 2, 2]]
    assert batch.positions_BL.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1]]
    assert batch.is_target_BL[0].nonzero()[0].tolist() == [2, 3, 5]
    assert batch.sources_BL.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert rows.source_names == ("x", "y")
    assert rows.num_targets([0]) == 3
