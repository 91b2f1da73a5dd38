import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from interloom.audio.files import resample
from interloom.audio.mel import at_speed, log_mel


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


def _glide(seconds: int) -> np.ndarray:
    """A tone that glides from 300 Hz up, with an overtone."""
    time = np.arange(16_000 * seconds) / 16_000
    phase = 2 * np.pi * (300 * time + 150 * time**2)
    return (0.2 * np.sin(phase) + 0.1 * np.sin(2.5 * phase)).astype(np.float32)


@pytest.mark.parametrize("num_mel_bins", [80, 128])
@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_features_at_another_speed_are_those_of_the_tape_played_so(
    num_mel_bins: int, speed: float
) -> None:
    waveform = _glide(2)
    played = resample(waveform, from_hz=round(16_000 * speed), to_hz=16_000)

    moved = at_speed(log_mel(waveform, num_mel_bins=num_mel_bins), speed)
    heard = log_mel(played, num_mel_bins=num_mel_bins)[: len(moved)]

    assert abs(len(moved) - 200 / speed) <= 1
    loud = heard > heard.max() - 0.75  # within 30 dB of the loudest value
    inner = slice(4, len(moved) - 4)
    differences = np.abs(moved - heard)[inner][loud[inner]]
    unmoved = log_mel(waveform, num_mel_bins=num_mel_bins)[: len(moved)]
    assert np.median(differences) < 0.1
    if speed < 1:
        before = np.abs(unmoved[: len(heard)] - heard[: len(unmoved)])
        assert np.median(differences) < np.median(before[loud[: len(before)]]) / 2


@given(st.integers(1, 50), st.floats(0.5, 2))
def test_as_many_frames_as_the_speed_leaves(num_frames: int, speed: float) -> None:
    mel = np.arange(num_frames, dtype=np.float32)[:, None].repeat(80, 1)

    moved = at_speed(mel, speed)

    assert moved.shape == (max(1, round(num_frames / speed)), 80)
    assert mel.min() - 1e-5 <= moved.min() <= moved.max() <= mel.max() + 1e-5


@pytest.mark.parametrize("tract", [0.8, 1.25])
def test_a_shorter_vocal_tract_raises_all_frequencies_at_the_same_pace(tract: float) -> None:
    seconds = np.arange(16_000) / 16_000
    tones = [np.sin(2 * np.pi * hz * seconds).astype(np.float32) for hz in (1500, 1500 * tract)]
    mel, expected = (log_mel(tone) for tone in tones)

    moved = at_speed(mel, 1.0, tract=tract)

    assert len(moved) == len(mel)
    assert abs(int(moved[50].argmax()) - int(expected[50].argmax())) <= 1
    assert moved[50].argmax() != mel[50].argmax()
