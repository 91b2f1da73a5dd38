"""Codes to sound: spectra, crops, the networks, and the stage that trains them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from interloom.audio.files import encode_flac, to_pcm16
from interloom.audio.mel import mel_filters
from interloom.config.speech_decoder import DecoderConfig, MelRegressorConfig, VocoderConfig
from interloom.config.training import TrainConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.corpora.tables import SPEECH_TOKENS, UTTERANCES, write_table
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.speech_decoder.averages import average_mels
from interloom.speech_decoder.examples import Corpus, SpeechBank, build_bank
from interloom.speech_decoder.fitting import clearest_voice
from interloom.speech_decoder.model import DecoderNetworks, DecoderSpec, build_networks
from interloom.speech_decoder.runtime import SpeechDecoder, load_speech_decoder
from interloom.speech_decoder.spectra import (
    LogMel,
    overlap_add,
    spectral_loss,
    transform,
)
from interloom.speech_decoder.vocoder import refined
from interloom.stages.train_decoder import (
    TrainDecoderRequest,
    TrainDecoderResult,
    train_decoder,
)
from interloom.testing.engine import PlainEngine
from interloom.testing.store import MemoryStore

STEP = 1280
CONFIG = DecoderConfig(
    regressor=MelRegressorConfig(
        token_width=16, num_token_layers=1, frame_width=8, num_frame_layers=1, kernel_size=3
    ),
    vocoder=VocoderConfig(width=16, num_layers=1, kernel_size=3),
    crops_per_batch=4,
    crop_tokens=6,
    vocoder_tokens=2,
    num_heldout=2,
    train=TrainConfig(num_steps=4, learning_rate=1e-3, log_every_steps=2, checkpoint_every_steps=2),
)


def noise(num_samples: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Quiet noise."""
    rng = np.random.Generator(np.random.Philox(seed))
    return (0.1 * rng.standard_normal(num_samples)).astype(np.float32)


def spec_of(config: DecoderConfig = CONFIG) -> DecoderSpec:
    """A decoder of 8 codes and two speakers."""
    return DecoderSpec(
        config=config,
        codebook_size=8,
        samples_per_token=STEP,
        speakers=("ann", "bob"),
        voice="bob",
        tokenizer="f" * 64,
    )


@pytest.fixture(scope="module")
def decoder() -> SpeechDecoder:
    """An untrained decoder."""
    return SpeechDecoder(spec_of(), build_networks(spec_of(), seed=3).eval())


def publish(store: ArtifactStore, *, lengths: Mapping[str, int], shift: int = 0) -> Any:
    """Speech and tokens of utterances with these numbers of codes; the last one is held out."""
    speech, tokens = [], []
    for index, (name, length) in enumerate(lengths.items()):
        split = "heldout" if index == len(lengths) - 1 else "train"
        shared: dict[str, Any] = {
            "id": name,
            "split": split,
            "speaker": "ann" if index % 2 else "bob",
            "text": "a",
            "num_samples": length * STEP,
            "words": [],
            "source": "made",
            "licence": "CC0-1.0",
            "facts": [],
        }
        audio = noise((length + shift) * STEP - 7, seed=index)
        speech.append({**shared, "audio": encode_flac(audio)})
        tokens.append({**shared, "codes": [(index + at) % 8 for at in range(length)]})
    with store.draft(ArtifactKind.SPEECH_CORPUS) as draft:
        write_table(draft, "utterances", UTTERANCES, speech)
        speech_ref = draft.commit(licences=["CC0-1.0"])
    with store.draft(ArtifactKind.SPEECH_TOKENS) as draft:
        write_table(draft, "tokens", SPEECH_TOKENS, tokens)
        facts = {"codebook_size": 8, "samples_per_token": STEP, "tokenizer": "f" * 64}
        tokens_ref = draft.commit(parents=[speech_ref], facts=facts)
    return speech_ref, tokens_ref


LENGTHS = {"u1": 9, "u2": 4, "u3": 12, "u4": 5}


def run_stage(
    folder: Path, store: ArtifactStore, refs: tuple[ArtifactRef, ArtifactRef], engine: Any
) -> TrainDecoderResult:
    """The stage in a workspace of its own."""
    folder.mkdir(exist_ok=True)
    request = TrainDecoderRequest(speech=refs[0], tokens=refs[1], config=CONFIG, seed=5)
    return train_decoder(request, store=store, work=Workspace(folder), engine=engine)


# Spectra


@settings(max_examples=20, deadline=None)
@given(num_frames=st.integers(1, 12), parts=st.sampled_from([4, 8]), seed=st.integers(0, 99))
def test_overlap_add_inverts_the_transform(num_frames: int, parts: int, seed: int) -> None:
    hop = 20
    window = torch.hann_window(parts * hop)
    waveform = torch.from_numpy(noise(num_frames * hop, seed=seed))[None]

    again = overlap_add(transform(waveform, window, hop).transpose(1, 2), window, hop)

    assert again.shape == waveform.shape
    torch.testing.assert_close(again, waveform, atol=1e-5, rtol=0)


def test_the_mel_bands_are_those_of_transformers() -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils", reason="needs the bench extra")

    ours = mel_filters(80)

    theirs = audio_utils.mel_filter_bank(
        201, 80, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney"
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_a_mel_frame_stands_for_each_hop_and_shows_a_tone_in_its_band() -> None:
    log_mel = LogMel(num_mels=80, num_fft=512, hop=160, sample_rate_hz=16_000)
    tone = torch.sin(2 * torch.pi * 1000.0 * torch.arange(16 * 160) / 16_000)[None]

    frames = log_mel(tone)

    assert frames.shape == (1, 16, 80)
    peak = int(frames[0, 8].argmax())
    edges = np.flatnonzero(mel_filters(80, num_fft=512)[32])
    assert peak in edges  # bin 32 of 512 is 1000 Hz


def test_the_spectral_loss_hears_no_sign_but_hears_another_sound() -> None:
    one = torch.from_numpy(noise(4096, seed=1))[None]
    other = torch.from_numpy(noise(4096, seed=2))[None]

    assert float(spectral_loss(-one, one, 256)) == pytest.approx(0.0, abs=1e-5)
    assert float(spectral_loss(other, one, 256)) > 0.5


def test_the_spectral_loss_has_a_finite_gradient_on_silence() -> None:
    silence = torch.zeros(1, 2048, requires_grad=True)

    torch.autograd.backward(spectral_loss(silence, torch.from_numpy(noise(2048))[None], 256))

    assert silence.grad is not None
    assert torch.isfinite(silence.grad).all()


def test_refining_makes_spectra_agree_with_their_own_waveform() -> None:
    window, hop = torch.hann_window(640), 160
    truth = transform(torch.from_numpy(noise(40 * hop))[None], window, hop).transpose(1, 2)
    guess = truth.abs().to(torch.complex64)  # all phases zero

    def mismatch(num_iterations: int) -> float:
        waveform = refined(guess, window, hop, num_iterations)
        heard = transform(waveform, window, hop).transpose(1, 2).abs()
        return float((heard - truth.abs()).norm() / truth.abs().norm())

    assert mismatch(16) < 0.6 * mismatch(0)


# Networks


def test_a_frame_hears_only_codes_near_it(decoder: SpeechDecoder) -> None:
    codes = [1] * 40
    other = [1] * 30 + [2] * 10

    changed = np.abs(decoder.mel(codes) - decoder.mel(other)).max(axis=1) > 0

    assert not changed[: 8 * 26].any()
    assert changed[8 * 30 :].any()


@settings(max_examples=10, deadline=None)
@given(codes=st.lists(st.integers(0, 7), max_size=12))
def test_each_code_gives_exactly_its_samples(decoder: SpeechDecoder, codes: list[int]) -> None:
    waveform = decoder.decode(codes)

    assert waveform.dtype == np.float32
    assert waveform.shape == (len(codes) * decoder.samples_per_token,)
    assert np.abs(waveform).max(initial=0.0) <= 1.0


def test_a_row_of_a_batch_sounds_as_alone(decoder: SpeechDecoder) -> None:
    rows = [[1, 2, 3], [4], [5, 6, 7, 0, 1]]

    batch = decoder.decode_batch(rows)

    for row, waveform in zip(rows, batch, strict=True):
        np.testing.assert_array_equal(waveform, decoder.decode(row))


def test_speakers_sound_different_and_the_own_voice_is_the_default(decoder: SpeechDecoder) -> None:
    codes = [1, 2, 3]

    assert decoder.sample_rate_hz == 16_000
    np.testing.assert_array_equal(decoder.decode(codes), decoder.decode(codes, voice="bob"))
    assert np.abs(decoder.mel(codes, voice="ann") - decoder.mel(codes, voice="bob")).max() > 0


@pytest.mark.parametrize("code", [-1, 8])
def test_a_code_outside_the_codebook_is_refused(decoder: SpeechDecoder, code: int) -> None:
    with pytest.raises(DataError, match=rf"code {code} is outside the codebook \[0, 8\)"):
        decoder.decode([1, code])


def test_an_unknown_voice_is_refused(decoder: SpeechDecoder) -> None:
    with pytest.raises(DataError, match=r"'eve'; there are: ann, bob"):
        decoder.decode([1], voice="eve")


def test_a_hop_that_does_not_divide_a_token_is_refused() -> None:
    spec = spec_of().model_copy(update={"samples_per_token": 1200})

    with pytest.raises(ConfigError, match="1200 samples must be a multiple of mel_hop = 160"):
        build_networks(spec, seed=0)


def test_the_vocoder_can_learn_a_sound() -> None:
    torch.manual_seed(0)
    vocoder = DecoderNetworks(spec_of()).vocoder
    log_mel = LogMel(num_mels=80, num_fft=512, hop=160, sample_rate_hz=16_000)
    wanted = torch.sin(2 * torch.pi * 300.0 * torch.arange(16 * 160) / 16_000)[None] * 0.3
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=5e-3)

    losses = []
    for _ in range(40):
        loss = spectral_loss(vocoder(log_mel(wanted)), wanted, 512)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.5 * losses[0]


# Crops


def bank_of(tmp_path: Path) -> SpeechBank:
    """Two utterances of 3 and 20 codes; a sample holds the number of its token."""
    codes = [np.arange(3, dtype=np.int32), np.arange(20, dtype=np.int32)]
    samples = np.repeat(np.concatenate([np.arange(3), np.arange(20)]), STEP).astype(np.int16)
    return SpeechBank([("ann", codes[0]), ("bob", codes[1])], samples)


@settings(max_examples=30, deadline=None)
@given(index=st.integers(0, 10_000))
def test_a_crop_holds_the_sound_of_its_codes_and_silence_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, index: int
) -> None:
    bank = bank_of(tmp_path_factory.getbasetemp())
    rng = np.random.Generator(np.random.Philox(key=1, counter=index))

    crops = bank.crops(rng, num_crops=3, num_tokens=6, no_speech=99, speakers=("ann", "bob"))

    sound = np.rint(crops.waveform * 32768).reshape(3, 6, STEP)
    assert (sound == sound[:, :, :1]).all()
    assert ((crops.codes == 99) == ~crops.inside).all()
    assert (sound[:, :, 0] == np.where(crops.inside, crops.codes, 0)).all()
    assert crops.inside.any(axis=1).all()
    for row in range(3):
        if crops.codes[row][crops.inside[row]].max() > 2:
            assert crops.speakers[row] == 1


def test_long_utterances_are_cropped_more_often(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(4))

    crops = bank_of(tmp_path).crops(
        rng, num_crops=2000, num_tokens=2, no_speech=99, speakers=("ann", "bob")
    )

    assert np.mean(crops.speakers == 1) == pytest.approx(20 / 23, abs=0.03)


def test_training_speech_stops_after_the_hours_asked_for(tmp_path: Path) -> None:
    store = MemoryStore()
    speech, tokens = publish(store, lengths=LENGTHS)
    corpus = Corpus(speech, tokens, STEP)

    bank = build_bank(corpus, store, tmp_path / "a", max_hours=9 * STEP / 16_000 / 3600)

    assert bank.tokens_of_speakers == {"bob": 9}
    whole = build_bank(corpus, store, tmp_path / "b", max_hours=None)
    assert whole.tokens_of_speakers == {"ann": 4, "bob": 21}


def test_codes_of_another_length_than_the_audio_are_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    speech, tokens = publish(store, lengths=LENGTHS, shift=3)

    with pytest.raises(DataError, match="'u1': 9 codes stand for 11520 samples, but the audio has"):
        build_bank(Corpus(speech, tokens, STEP), store, tmp_path / "a", max_hours=None)


def test_codes_of_another_corpus_are_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    speech, _ = publish(store, lengths=LENGTHS)
    _, tokens = publish(store, lengths={"v1": 3, "v2": 3})

    with pytest.raises(DataError, match=r"no training utterance of .* has codes in"):
        build_bank(Corpus(speech, tokens, STEP), store, tmp_path / "a", max_hours=None)


def test_codes_and_speakers_start_from_their_average_frames(tmp_path: Path) -> None:
    networks = build_networks(spec_of(), seed=0)
    codes = np.array([1, 2, 1], dtype=np.int32)
    sound = np.concatenate([noise(3 * STEP, seed=1), 0.1 * noise(3 * STEP, seed=2)])
    bank = SpeechBank([("ann", codes), ("bob", codes)], to_pcm16(sound))

    average = average_mels(bank, spec_of(), networks.log_mel)
    networks.regressor.start_from(average.codes_CFM, average.speakers_PM)

    frames = [
        networks.log_mel(torch.from_numpy(one.waveform)[None])[0].reshape(3, 8, 80)
        for one in bank.utterances()
    ]
    of_code_one = torch.cat([both[[0, 2]] for both in frames]).mean(dim=0)
    torch.testing.assert_close(average.codes_CFM[1], of_code_one)
    assert average.codes_CFM.shape == (9, 8, 80)
    torch.testing.assert_close(average.codes_CFM[7], torch.cat(frames).mean(dim=0))
    assert float(average.codes_CFM[8].max()) == pytest.approx(0.5 * np.log(1e-7))
    louder = average.speakers_PM[0] - average.speakers_PM[1]
    assert float(louder.mean()) == pytest.approx(np.log(10), abs=0.2)
    predicted = SpeechDecoder(spec_of(), networks.eval()).mel([1], voice="ann")
    expected = average.codes_CFM[1] + average.speakers_PM[0]
    np.testing.assert_allclose(predicted, expected.numpy(), atol=1e-5)


# Configuration


def test_the_voice_is_the_one_that_is_predicted_best_unless_one_is_asked_for() -> None:
    decoder = SpeechDecoder(spec_of(), build_networks(spec_of(), seed=3).eval())
    codes = np.array([1, 2, 3, 4, 5, 6], dtype=np.int32)
    said = decoder.decode(codes, voice="ann")
    samples = to_pcm16(np.concatenate([said, noise(6 * STEP)]))
    bank = SpeechBank([("ann", codes), ("bob", codes)], samples)

    assert [one.speaker for one in bank.utterances("bob")] == ["bob"]
    distances = {
        name: np.abs(decoder.mel(codes, voice=name) - decoder.mel_of(one.waveform)).mean()
        for name in ("ann", "bob")
        for one in bank.utterances(name)
    }
    assert clearest_voice(decoder, bank, None) == min(distances, key=lambda n: distances[n])
    assert clearest_voice(decoder, bank, "ann") == "ann"
    assert clearest_voice(decoder, bank, "bob") == "bob"
    with pytest.raises(ConfigError, match="voice 'eve' is no speaker of the corpus; it has: ann"):
        clearest_voice(decoder, bank, "eve")


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="kernel_size must be odd, got 4"):
        MelRegressorConfig(kernel_size=4)
    with pytest.raises(ValidationError, match="kernel_size must be odd, got 2"):
        VocoderConfig(kernel_size=2)
    with pytest.raises(ValidationError, match="a multiple of 4 x mel_hop = 640, got 512"):
        DecoderConfig(vocoder=VocoderConfig(num_fft=512))
    with pytest.raises(ValidationError, match="at most crop_tokens = 4, got 5"):
        DecoderConfig(crop_tokens=4, vocoder_tokens=5)
    with pytest.raises(ValidationError, match=r"train\.precision must be fp32"):
        DecoderConfig(train=CONFIG.train.model_copy(update={"precision": "bf16"}))


# The stage


def test_the_stage_gives_equal_bytes_and_a_decoder_that_loads(tmp_path: Path) -> None:
    store = MemoryStore()
    refs = publish(store, lengths=LENGTHS)

    first = run_stage(tmp_path / "a", store, refs, PlainEngine)
    second = run_stage(tmp_path / "b", store, refs, PlainEngine)

    assert first == second
    assert first.metric("decoder/mel_l1") > 0
    assert first.metric("decoder/waveform_mel_l1") > 0
    assert [m.step for m in first.metrics if m.name == "train/mel_l1"] == [2, 4]
    decoder = load_speech_decoder(store, first.decoder)
    assert decoder.spec.speakers == ("ann", "bob")
    assert decoder.spec.voice in decoder.spec.speakers
    assert decoder.decode([1, 2]).shape == (2 * STEP,)
    manifest = store.manifest(first.decoder)
    assert [shard.path for shard in manifest.shards] == [
        "card.md",
        "config.json",
        "model.safetensors",
    ]
    assert manifest.licences == ("CC0-1.0",)


def test_a_killed_training_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    store = MemoryStore()
    refs = publish(store, lengths=LENGTHS)
    whole = run_stage(tmp_path / "a", store, refs, PlainEngine)

    class Dies(PlainEngine):
        def step(self, learning_rate: float, *, is_skipped: bool = False) -> float:
            if self._config.num_steps and self._steps == 3:
                raise KeyboardInterrupt
            self._steps += 1
            return super().step(learning_rate, is_skipped=is_skipped)

        _steps = 0

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "b", store, refs, Dies)
    resumed = run_stage(tmp_path / "b", store, refs, PlainEngine)

    assert resumed == whole


def test_tokens_that_do_not_say_how_they_were_made_are_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    speech, _ = publish(store, lengths=LENGTHS)

    with pytest.raises(DataError, match="does not say its codebook_size"):
        run_stage(tmp_path / "a", store, (speech, speech), PlainEngine)


def test_an_artifact_of_another_kind_is_no_decoder() -> None:
    store = MemoryStore()
    speech, _ = publish(store, lengths=LENGTHS)

    with pytest.raises(DataError, match="is no speech decoder: expected decoder_model"):
        load_speech_decoder(store, speech)


def test_weights_that_do_not_fit_the_config_are_refused() -> None:
    store = MemoryStore()
    with store.draft(ArtifactKind.DECODER_MODEL) as draft:
        with draft.shard("config.json") as shard:
            shard.path.write_text("{}")
        with draft.shard("model.safetensors") as shard:
            shard.path.write_bytes(b"")
        ref = draft.commit()

    with pytest.raises(DataError, match="config and weights do not fit"):
        load_speech_decoder(store, ref)


def as_list(networks: nn.Module) -> list[Tensor]:
    """All weights."""
    return [parameter.detach() for parameter in networks.parameters()]


def test_the_seed_decides_the_first_weights_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    one = as_list(build_networks(spec_of(), seed=9))
    torch.manual_seed(2)
    two = as_list(build_networks(spec_of(), seed=9))

    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
