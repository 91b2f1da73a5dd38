import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from interloom.audio.mel import log_mel


def _noise(num_samples: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(num_samples))
    return (0.1 * rng.standard_normal(num_samples)).astype(np.float32)


@pytest.mark.parametrize("num_mel_bins", [80, 128])
@pytest.mark.parametrize("num_samples", [1600, 16_001, 15_999, 40_123])
def test_features_equal_those_of_the_published_whisper_extractor(
    num_mel_bins: int, num_samples: int
) -> None:
    waveform = _noise(num_samples)
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)

    ours = log_mel(waveform, num_mel_bins=num_mel_bins, num_frames=400)

    theirs = extractor(waveform, sampling_rate=16_000, return_tensors="np")["input_features"][0].T
    np.testing.assert_allclose(ours, theirs[:400], atol=2e-5)


@given(st.integers(1, 2000))
def test_frames_are_counted_from_samples(num_samples: int) -> None:
    assert len(log_mel(_noise(num_samples))) == -(-num_samples // 160)


def test_more_frames_do_not_change_those_before_them() -> None:
    waveform = _noise(16_000)

    short, long = log_mel(waveform, num_frames=100), log_mel(waveform, num_frames=5000)

    np.testing.assert_array_equal(short, long[:100])


def test_no_samples_give_no_frames() -> None:
    assert log_mel(np.zeros(0, np.float32)).shape == (0, 80)
