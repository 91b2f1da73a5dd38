"""Recordings in, recordings out."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from interloom.audio.files import (
    audio_seconds,
    encode_flac,
    read_audio,
    resample,
    stream_audio,
    to_pcm16,
    write_flac,
    write_wav,
)
from interloom.core.errors import DataError


def tone(seconds: float = 0.5, *, rate_hz: int = 16_000, hz: float = 440.0) -> NDArray[np.float32]:
    """A sine of half amplitude."""
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * hz * at)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100])
def test_any_common_file_becomes_16_khz_mono(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    path = tmp_path / f"tone.{suffix}"
    mono = tone(rate_hz=rate_hz)
    soundfile.write(path, np.stack([mono, mono], axis=1), rate_hz)

    samples = read_audio(path)

    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(8_000, abs=1600 if suffix == "mp3" else 2)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.06)


def test_resampling_keeps_a_tone_what_it_is() -> None:
    samples = resample(tone(rate_hz=22_050), from_hz=22_050, to_hz=16_000)

    middle = slice(1_000, 7_000)
    assert np.abs(samples[middle] - tone()[middle]).max() < 1e-3


def test_bytes_are_read_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tone.flac"
    write_flac(path, tone())

    assert np.array_equal(read_audio(path), read_audio(path.read_bytes()))


@settings(deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=300))
def test_sixteen_bit_samples_survive_flac(values: list[int]) -> None:
    samples = np.array(values, dtype=np.float32) / 32768.0

    assert np.array_equal(read_audio(encode_flac(samples)), samples)


def test_equal_samples_give_equal_bytes() -> None:
    assert encode_flac(tone()) == encode_flac(tone())


def test_what_is_too_loud_is_clipped() -> None:
    assert to_pcm16(np.array([2.0, -2.0, 0.5], np.float32)).tolist() == [32767, -32768, 16384]


def test_a_wav_is_written_at_its_rate(tmp_path: Path) -> None:
    write_wav(tmp_path / "tone.wav", tone(rate_hz=24_000), sample_rate_hz=24_000)

    assert soundfile.info(tmp_path / "tone.wav").samplerate == 24_000
    assert audio_seconds(tmp_path / "tone.wav") == 0.5


def test_a_file_that_is_no_audio_is_named(tmp_path: Path) -> None:
    path = tmp_path / "noise.wav"
    path.write_bytes(b"no audio at all")

    with pytest.raises(DataError, match=r"cannot read noise\.wav as audio"):
        read_audio(path)
    with pytest.raises(DataError, match=r"cannot read noise\.wav as audio"):
        audio_seconds(path)


def test_a_file_without_samples_is_refused() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(0, np.float32), 16_000, format="WAV")

    with pytest.raises(DataError, match="holds no sample"):
        read_audio(buffer.getvalue())


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_recording_that_was_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(3.0), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(DataError, match=r"tone\.\w+.*(ends after \d+ of the 48000|as audio)"):
        read_audio(path)


def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "live.wav"
    write_wav(path, tone())
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # as written by one who does not know the end
    path.write_bytes(data)

    assert np.array_equal(read_audio(path), read_audio(encode_flac(tone())))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    samples = tone()
    samples[100] = bad
    soundfile.write(tmp_path / "bad.wav", samples, 16_000, subtype="FLOAT")

    with pytest.raises(DataError, match=r"bad\.wav holds a sample that is NaN or infinite"):
        read_audio(tmp_path / "bad.wav")


def test_eight_channels_are_mixed_down(tmp_path: Path) -> None:
    channels = np.stack([tone() * share for share in (0, 1, 0, 0, 0, 0, 0, 1)], axis=1)
    soundfile.write(tmp_path / "eight.wav", channels, 16_000)

    np.testing.assert_allclose(read_audio(tmp_path / "eight.wav"), tone() / 4, atol=1e-4)


def test_a_file_under_another_formats_name_is_read_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "tone.mp3").write_bytes(encode_flac(tone()))

    assert len(read_audio(tmp_path / "tone.mp3")) == 8_000


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_chunks_of_a_long_recording_are_the_whole(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, tone(25.0, rate_hz=rate_hz), rate_hz)

    chunks = list(stream_audio(path))

    assert len(chunks) > 2
    np.testing.assert_array_equal(np.concatenate(chunks), read_audio(path))
    assert sum(map(len, chunks)) == pytest.approx(400_000, abs=2)
    middle = slice(150_000, 170_000)  # where two chunks meet
    np.testing.assert_allclose(np.concatenate(chunks)[middle], tone(25.0)[middle], atol=1e-3)
