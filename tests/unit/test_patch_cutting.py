"""Where rows are cut into patches, against a slow reading of the rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interloom.core.errors import ConfigError
from interloom.language_model.patches.cutting import Patches, cut, static_patches

RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=8)
"""Documents of one row: for each, whether its tokens are speech, and how many they are."""


def row_of(runs: list[tuple[bool, int]], documents: list[int]) -> tuple[Tensor, Tensor]:
    """Which tokens are speech, and their documents, of one row."""
    is_speech = np.repeat([speech for speech, _ in runs], [count for _, count in runs])
    segments = np.repeat(documents, [count for _, count in runs])
    return torch.from_numpy(is_speech)[None], torch.from_numpy(segments)[None]


def lengths_by_hand(is_speech: list[bool], segments: list[int], size: int) -> list[int]:
    """The rule, token by token."""
    lengths: list[int] = []
    for place, speech in enumerate(is_speech):
        same = place > 0 and segments[place] == segments[place - 1]
        goes_on = speech and same and is_speech[place - 1] and lengths[-1] < size
        if goes_on:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths


def lengths_of(patches: Patches) -> list[list[int]]:
    """Tokens of each patch, 0 past a row's last."""
    numbers = range(patches.num_patches)
    return [[row.count(n) for n in numbers] for row in patches.number_BT.tolist()]


def test_speech_is_cut_every_two_tokens_and_all_else_is_a_patch_of_one() -> None:
    is_speech, segments = row_of([(False, 2), (True, 5), (False, 1), (True, 2)], [0, 0, 0, 0])

    patches = static_patches(is_speech, segments, 2)

    assert lengths_of(patches) == [[1, 1, 2, 2, 1, 1, 2]]
    assert patches.number_BT.tolist() == [[0, 1, 2, 2, 3, 3, 4, 5, 6, 6]]


def test_no_patch_crosses_documents_and_places_begin_anew() -> None:
    is_speech, segments = row_of([(True, 3), (True, 3)], [7, 8])

    patches = static_patches(is_speech, segments, 2)

    assert lengths_of(patches) == [[2, 1, 2, 1]]
    assert patches.segments_BP.tolist() == [[7, 7, 8, 8]]
    assert patches.positions_BP.tolist() == [[0, 1, 0, 1]]


def test_the_end_of_a_run_is_not_known_before_the_next_token() -> None:
    is_speech, segments = row_of([(True, 3), (False, 1)], [0, 0])

    patches = static_patches(is_speech, segments, 2)

    assert patches.is_closed_BT.tolist() == [[False, True, False, True]]
    assert patches.num_seen.tolist() == [[0, 1, 1, 3]]


def test_rows_with_fewer_patches_are_filled_with_patches_of_nothing() -> None:
    is_speech = torch.tensor([[True] * 4, [False] * 4])

    patches = static_patches(is_speech, torch.zeros(2, 4, dtype=torch.long), 4)

    assert lengths_of(patches) == [[4, 0, 0, 0], [1, 1, 1, 1]]
    assert patches.segments_BP.tolist() == [[0, -1, -1, -1], [0, 0, 0, 0]]


@settings(deadline=None)
@given(RUNS, st.integers(1, 5), st.data())
def test_lengths_equal_those_of_the_rule_token_by_token(
    runs: list[tuple[bool, int]], size: int, data: st.DataObject
) -> None:
    documents = np.cumsum(data.draw(st.lists(st.booleans(), min_size=8, max_size=8)))[: len(runs)]
    is_speech, segments = row_of(runs, documents.tolist())

    patches = static_patches(is_speech, segments, size)

    expected = lengths_by_hand(is_speech[0].tolist(), segments[0].tolist(), size)
    assert lengths_of(patches)[0] == expected


def test_ten_thousand_random_rows_are_cut_as_by_hand() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    for _ in range(10_000):
        size, length = int(rng.integers(1, 6)), int(rng.integers(1, 60))
        is_speech = rng.random((1, length)) < rng.random()
        segments = np.sort(rng.integers(0, 4, (1, length)))

        cuts = cut(is_speech, segments, size)

        expected = lengths_by_hand(is_speech[0].tolist(), segments[0].tolist(), size)
        assert cuts.lengths_M.tolist() == expected


@settings(deadline=None)
@given(RUNS, st.integers(1, 4), st.integers(0, 60))
def test_a_cut_depends_on_nothing_after_it(
    runs: list[tuple[bool, int]], size: int, place: int
) -> None:
    is_speech, segments = row_of(runs, [0] * len(runs))
    place = min(place, is_speech.shape[1] - 1)
    changed = is_speech.clone()
    changed[:, place + 1 :] = ~changed[:, place + 1 :]

    one, other = (static_patches(speech, segments, size) for speech in (is_speech, changed))

    assert torch.equal(one.num_seen[:, : place + 1], other.num_seen[:, : place + 1])


def test_patches_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="a patch holds at least 1 speech token, got 0"):
        static_patches(torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3), 0)
