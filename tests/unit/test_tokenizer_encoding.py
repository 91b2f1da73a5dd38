"""The codes of an utterance are its own: alone, in any company, in any chunks, on any threads."""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.audio.mel import above_floor, log_mel, log_power
from interloom.config.speech_tokenizer import EncoderConfig, QuantizerConfig, TokenizerConfig
from interloom.core.errors import DataError
from interloom.speech_tokenizer import encoding
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.speech_tokenizer.runtime import SpeechTokenizer
from interloom.text.bpe import TextTokenizer

CONFIG = EncoderConfig(
    d_model=64,
    num_heads=4,
    ffn_dim=128,
    num_layers=4,
    pool_after_layer=2,
    quantize_after_layer=4,
    block_frames=200,
    window_frames=None,
    relative_reach=None,
    bucket_tokens=8,
)


@cache
def _tokenizer(config: EncoderConfig = CONFIG) -> SpeechTokenizer:
    """An untrained encoder with codes among its vectors, so that all are in use."""
    torch.manual_seed(0)
    text = TextTokenizer.train([" a b"], vocab_size=258)
    whole = TokenizerConfig(
        encoder=config, quantizer=QuantizerConfig(codebook_size=256), decoder_layers=1
    )
    model = TokenizerModel(whole, text.vocab_size).eval()
    model.requires_grad_(requires_grad=False)
    num_codes = min(config.max_tokens, 60_000 // config.samples_per_token)
    vectors = [
        model.encoder.below(
            torch.from_numpy(encoding.mel_of(_speech(seed, 60_000), config, num_codes)[None]),
            torch.tensor([num_codes]),
        )[0]
        for seed in range(40)
    ]
    model.encoder.codebook.set_by_kmeans(torch.cat(vectors), seed=0)
    return SpeechTokenizer(whole, text, model)


def _speech(seed: int, num_samples: int) -> np.ndarray:
    """Tones that come and go, with noise."""
    rng = np.random.Generator(np.random.Philox(seed))
    time = np.arange(num_samples) / 16_000
    edges = np.cumsum(rng.integers(1200, 6000, num_samples // 1200 + 2))
    place = np.searchsorted(edges, np.arange(num_samples), side="right")
    pitch = rng.uniform(100, 3000, len(edges) + 1)[place]
    loud = rng.uniform(0.0, 0.3, len(edges) + 1)[place]
    tones = np.sin(2 * np.pi * pitch * time) + 0.5 * np.sin(5 * np.pi * pitch * time)
    return (loud * tones + 0.003 * rng.standard_normal(num_samples)).astype(np.float32)


def _chunks(waveform: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    start = place = 0
    while start < len(waveform):
        size = sizes[place % len(sizes)]
        yield waveform[start : start + size]
        start, place = start + size, place + 1


def _streamed(tokenizer: SpeechTokenizer, waveform: np.ndarray, sizes: list[int]) -> np.ndarray:
    return np.concatenate(list(tokenizer.stream(_chunks(waveform, sizes))))


@pytest.mark.slow
def test_two_hundred_utterances_have_the_same_codes_however_they_are_encoded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = _tokenizer()
    rng = np.random.Generator(np.random.Philox(5))
    waveforms = [_speech(seed, int(rng.integers(12_000, 280_000))) for seed in range(200)]
    threads = torch.get_num_threads()
    alone = [tokenizer.encode([waveform])[0] for waveform in waveforms]
    num_again = num_differing = num_compared = 0

    def compare(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
        nonlocal num_differing, num_compared
        for one, other in zip(found, expected, strict=True):
            assert len(one) == len(other)
            num_differing += int((one != other).sum())
            num_compared += len(one)

    for size in (2, 7, 32):
        for start in range(0, 200, size):
            encodings = tokenizer.encode_all(waveforms[start : start + size])
            num_again += encodings.num_again
            compare(list(encodings.codes), alone[start : start + size])
    compare(tokenizer.encode(waveforms[::-1])[::-1], alone)
    compare([_streamed(tokenizer, waveform, [64_000]) for waveform in waveforms], alone)
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        compare(tokenizer.encode(waveforms), alone)
    torch.set_num_threads(threads)

    config = tokenizer.config.encoder
    leads = [
        encoding.encode_together(tokenizer.model.encoder, [mel])[0].leads_C
        for mel in (
            encoding.mel_of(waveform, config, -(-len(waveform) // 1280)) for waveform in waveforms
        )
    ]
    num_codes = sum(map(len, alone))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{num_codes} codes, {len(np.unique(np.concatenate(alone)))} different ones; "
            f"{num_compared} compared, {num_differing} differ; smallest lead "
            f"{np.concatenate(leads).min():.1e}, computed again in batches "
            f"{num_again / (3 * num_codes):.2%}\n"
        )
    assert num_codes >= 20_000
    assert num_differing == 0


def test_batches_change_vectors_by_far_less_than_the_margin() -> None:
    tokenizer = _tokenizer()
    encoder, config = tokenizer.model.encoder, CONFIG
    mels = [encoding.mel_of(_speech(seed, 90_000), config, 70) for seed in range(9)]

    together = np.concatenate([one.leads_C for one in encoding.encode_together(encoder, mels)])
    alone = np.concatenate([encoding.encode_together(encoder, [mel])[0].leads_C for mel in mels])

    known = np.isfinite(together) & np.isfinite(alone)
    assert known.any()
    assert np.abs(together[known] - alone[known]).max() < encoding.ROUNDING / 5


def test_near_ties_are_computed_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = _tokenizer()
    waveforms = [_speech(seed, 30_000 + 7_000 * seed) for seed in range(5)]
    usual = tokenizer.encode_all(waveforms)

    monkeypatch.setattr(encoding, "ROUNDING", 1e-2)
    doubting = tokenizer.encode_all(waveforms)

    assert doubting.num_again > 20 > usual.num_again
    for one, other in zip(usual.codes, doubting.codes, strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.integers(0, 9), st.lists(st.integers(1, 40_000), min_size=1, max_size=4))
@settings(deadline=None, max_examples=10)
def test_a_stream_gives_the_same_codes_in_chunks_of_any_size(seed: int, sizes: list[int]) -> None:
    waveform = _speech(seed, 45_000 + 11_117 * seed)

    whole = _tokenizer().encode([waveform])[0]

    np.testing.assert_array_equal(_streamed(_tokenizer(), waveform, [*sizes, 9_000]), whole)


_LONG = {
    "blocks": CONFIG.model_copy(update={"max_frames": 480, "block_frames": 40}),
    "a table that ends within a block": CONFIG.model_copy(update={"max_frames": 500}),
    "no causality": CONFIG.model_copy(update={"max_frames": 480, "block_frames": None}),
    "a centred stem": CONFIG.model_copy(update={"max_frames": 480, "is_stem_causal": False}),
}


@pytest.mark.parametrize("name", _LONG)
@pytest.mark.parametrize("extra", [0, 1, 39, 41, 1280])
def test_long_recordings_have_the_same_codes_as_a_whole_and_as_a_stream(
    name: str, extra: int
) -> None:
    tokenizer = _tokenizer(_LONG[name])
    waveform = _speech(3, _LONG[name].max_frames * 320 * 2 + extra)

    whole = tokenizer.encode([waveform])[0]

    assert len(whole) == -(-len(waveform) // 1280)
    np.testing.assert_array_equal(_streamed(tokenizer, waveform, [50_000]), whole)


def test_a_long_recording_has_no_seam() -> None:
    config = CONFIG.model_copy(
        update={"max_frames": 480, "block_frames": 40, "window_frames": 40, "relative_reach": 8}
    )
    tokenizer = _tokenizer(config)
    tokenizer.model.encoder.embed_positions.weight.zero_()  # then only what is heard matters
    waveform = _speech(4, 480 * 320 * 2)
    longer = _tokenizer(config.model_copy(update={"max_frames": 1480}))
    longer.model.encoder.load_state_dict(
        {
            **tokenizer.model.encoder.state_dict(),
            "embed_positions.weight": torch.zeros(1480, 64),
            "embed_positions2.weight": torch.zeros(370, 64),
        }
    )

    pieces, whole = tokenizer.encode([waveform])[0], longer.encode([waveform])[0]

    assert (pieces == whole).mean() > 0.99


@pytest.mark.parametrize("kernel", [1, 2, 4, 8])
def test_codes_are_counted_from_samples_at_every_hop_boundary(kernel: int) -> None:
    config = CONFIG.model_copy(update={"pool_kernel": kernel})
    hop = config.samples_per_token
    lengths = [hops * hop + off for hops in (1, 2, 7, 50) for off in (-1, 0, 1)]

    found = _tokenizer(config).encode([_speech(1, length) for length in lengths])

    assert [len(codes) for codes in found] == [-(-length // hop) for length in lengths]


@pytest.mark.parametrize("bins", [80, 128])
def test_log_mels_in_steps_are_those_of_the_whole(bins: int) -> None:
    waveform = _speech(2, 50_000)
    config = CONFIG.model_copy(update={"num_mel_bins": bins, "block_frames": None})

    mel = encoding.mel_of(waveform, config, 40)

    np.testing.assert_array_equal(mel, log_mel(waveform, num_mel_bins=bins, num_frames=320))


def test_the_floor_follows_the_loudest_value_so_far() -> None:
    waveform = np.concatenate([np.zeros(12_800), np.ones(12_800)]).astype(np.float32)
    first = log_power(waveform, num_mel_bins=80, first=0, stop=40)
    second = log_power(waveform, num_mel_bins=80, first=80, stop=120)

    loudest = above_floor(first, np.float32(-np.inf))
    louder = above_floor(second, loudest)

    assert louder > loudest
    assert first.min() == pytest.approx((loudest + 4) / 4)  # silence is its own loudest
    assert second.min() == pytest.approx((louder - 8 + 4) / 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(bad: float) -> None:
    waveform = _speech(0, 5_000)
    waveform[77] = bad

    with pytest.raises(DataError, match="a sample that is NaN or infinite"):
        _tokenizer().encode([waveform])
    with pytest.raises(DataError, match="a sample that is NaN or infinite"):
        list(_tokenizer().stream([waveform]))


@pytest.mark.parametrize(
    "waveform",
    [np.zeros(20_000), np.clip(9 * _speech(1, 20_000), -1, 1), np.full(1, 0.5), np.zeros(1)],
    ids=["silent", "clipped", "one sample", "one silent sample"],
)
def test_odd_audio_has_codes_like_any_other(waveform: np.ndarray) -> None:
    codes = _tokenizer().encode([waveform.astype(np.float32)])[0]

    assert len(codes) == -(-len(waveform) // 1280)
    assert 0 <= codes.min() <= codes.max() < 256


_TEN_HOURS = """
import resource, sys, time
from pathlib import Path
import numpy as np, torch
from interloom.audio.files import stream_audio
from interloom.config.speech_tokenizer import EncoderConfig, QuantizerConfig, TokenizerConfig
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.speech_tokenizer.runtime import SpeechTokenizer
from interloom.text.bpe import TextTokenizer
torch.set_num_threads(1)
encoder = EncoderConfig(
    d_model=16, num_heads=2, ffn_dim=32, num_layers=2, pool_after_layer=0, quantize_after_layer=1
)
config = TokenizerConfig(
    encoder=encoder, quantizer=QuantizerConfig(codebook_size=64), decoder_layers=1
)
text = TextTokenizer.train([" a"], vocab_size=257)
model = TokenizerModel(config, text.vocab_size).eval().requires_grad_(False)
model.encoder.codebook.is_ready.fill_(True)
tokenizer = SpeechTokenizer(config, text, model)
count = sum(len(codes) for codes in tokenizer.stream(stream_audio(Path(sys.argv[1]))))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.nightly
def test_ten_hours_are_encoded_in_less_than_two_gigabytes(tmp_path: Path) -> None:
    hour = np.concatenate([_speech(seed, 960_000) for seed in range(60)])
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 16_000, 1, "PCM_16") as file:
        for _ in range(10):
            file.write(hour)

    command = [sys.executable, "-c", _TEN_HOURS, str(tmp_path / "long.flac")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)

    count, peak_kilobytes = map(int, done.stdout.split())
    assert count == 10 * 3600 * 16_000 // 1280
    assert peak_kilobytes < 2_000_000
