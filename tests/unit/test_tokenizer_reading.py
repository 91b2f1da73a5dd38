from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.core.errors import DataError
from interloom.core.spans import Span
from interloom.speech_tokenizer.reading import ctc_align, ctc_greedy


def _log_probs(rows: list[list[float]]) -> np.ndarray:
    return np.log(np.array(rows, np.float32))


def test_repeats_and_blanks_are_taken_out() -> None:
    best = [2, 0, 0, 2, 2, 0, 1, 1, 2]

    assert ctc_greedy(torch.eye(3)[best], blank=2) == [0, 0, 1]


def test_labels_are_found_where_they_are_likely() -> None:
    likely = [2, 0, 0, 2, 1, 2]
    rows = [[0.9 if label == one else 0.05 for label in range(3)] for one in likely]

    assert ctc_align(_log_probs(rows), [0, 1], blank=2) == [Span(1, 3), Span(4, 5)]


def test_equal_labels_are_kept_apart_by_a_blank() -> None:
    rows = [[0.9, 0.1], [0.6, 0.4], [0.9, 0.1]]

    assert ctc_align(_log_probs(rows), [0, 0], blank=1) == [Span(0, 1), Span(2, 3)]


@given(st.integers(0, 1000), st.lists(st.integers(0, 2), min_size=1, max_size=3))
@settings(deadline=None, max_examples=15)
def test_the_alignment_is_the_best_of_all_paths(seed: int, labels: list[int]) -> None:
    num_places = 5
    scores = np.random.Generator(np.random.Philox(seed)).standard_normal((num_places, 4))
    log_probs = torch.log_softmax(torch.from_numpy(scores.astype(np.float32)), 1).numpy()

    spans = ctc_align(log_probs, labels, blank=3)

    found = np.full(num_places, 3)
    for label, span in zip(labels, spans, strict=True):
        found[span.start : span.stop] = label
    best = max(
        sum(float(log_probs[place, label]) for place, label in enumerate(path))
        for path in product(range(4), repeat=num_places)
        if ctc_greedy(torch.eye(4)[list(path)], blank=3) == labels
    )
    total = sum(float(log_probs[place, label]) for place, label in enumerate(found.tolist()))
    assert total == pytest.approx(best, abs=1e-4)


def test_too_few_places_for_the_labels_are_refused() -> None:
    with pytest.raises(DataError, match="2 labels need at least 3 places, got 2"):
        ctc_align(_log_probs([[0.5, 0.5]] * 2), [0, 0], blank=1)
