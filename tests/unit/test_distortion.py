import math

import numpy as np
import pytest

from interloom.evaluation.distortion import mel_cepstra, mel_cepstral_distortion


def _signal(num_frames: int = 40, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(size=(num_frames, 80)), axis=0) * 0.1


def test_equal_signals_do_not_differ() -> None:
    assert mel_cepstral_distortion(_signal(), _signal()) == pytest.approx(0.0, abs=1e-5)


def test_a_shift_of_one_cepstrum_gives_the_formula_of_kubichek() -> None:
    flat = np.zeros((5, 80))
    wave = np.cos(np.pi * 3 * (np.arange(80) + 0.5) / 80)  # cepstrum 3 alone
    shifted = flat + 0.2 * wave

    expected = 10 * math.sqrt(2) / math.log(10) * 0.1  # c_3 = 0.2 / 2
    root_mean_square_db = 10 * np.log10(np.exp(np.sqrt(np.mean((0.2 * wave) ** 2))))
    assert mel_cepstral_distortion(flat, shifted) == pytest.approx(expected)
    assert expected == pytest.approx(root_mean_square_db)


def test_loudness_does_not_count() -> None:
    assert mel_cepstral_distortion(_signal(), _signal() + 3.0) == pytest.approx(0.0, abs=1e-5)


def test_a_slower_rendering_is_warped_back() -> None:
    signal = _signal()

    assert mel_cepstral_distortion(signal, np.repeat(signal, 2, axis=0)) == pytest.approx(
        0.0, abs=1e-5
    )


def test_the_cheapest_path_is_that_of_a_plain_search() -> None:
    first, second = mel_cepstra(_signal(7, 1)), mel_cepstra(_signal(5, 2))
    cost = np.linalg.norm(first[:, None] - second[None], axis=-1)

    def best(i: int, j: int) -> tuple[float, int]:
        if (i, j) == (0, 0):
            return float(cost[0, 0]), 1
        before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        total, length = min(best(*one) for one in before if min(one) >= 0)
        return total + float(cost[i, j]), length + 1

    total, length = best(6, 4)
    expected = 10 * math.sqrt(2) / math.log(10) * total / length
    assert mel_cepstral_distortion(_signal(7, 1), _signal(5, 2)) == pytest.approx(expected)
