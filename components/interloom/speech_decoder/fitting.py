"""Training a decoder from artifacts, and measuring it on held-out speech."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from interloom.config.speech_decoder import DecoderConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineBuilder
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.speech_decoder.averages import average_mels
from interloom.speech_decoder.examples import (
    Corpus,
    SpeechBank,
    Utterance,
    build_bank,
    first_heldout,
)
from interloom.speech_decoder.learning import DecoderTask
from interloom.speech_decoder.model import (
    DecoderNetworks,
    DecoderSpec,
    build_networks,
    save_decoder,
)
from interloom.speech_decoder.runtime import SpeechDecoder
from interloom.training.loop import train


@dataclass(frozen=True, slots=True)
class Fitted:
    """The stored decoder, its results and its curves."""

    ref: ArtifactRef
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class Codec:
    """What codes stand for."""

    codebook_size: int
    samples_per_token: int
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """The artifacts that a decoder learns from."""

    speech: ArtifactRef
    tokens: ArtifactRef


def fit_decoder(
    inputs: Inputs,
    config: DecoderConfig,
    *,
    seed: int,
    store: ArtifactStore,
    work: Workspace,
    engine: EngineBuilder,
) -> Fitted:
    """Train, measure and store a decoder.

    Raises:
        DataError: Tokens and speech do not belong together, or there is no training speech.
        ConfigError: The configured voice is no speaker of the corpus.
    """
    codec = _codec(store, inputs.tokens)
    corpus = Corpus(inputs.speech, inputs.tokens, codec.samples_per_token)
    bank = build_bank(corpus, store, work.folder / "speech.i16", max_hours=config.max_hours)
    spec = DecoderSpec(
        config=config,
        codebook_size=codec.codebook_size,
        samples_per_token=codec.samples_per_token,
        speakers=tuple(bank.tokens_of_speakers),
        voice=_candidates(bank, config.voice)[0],
        tokenizer=codec.tokenizer,
    )
    networks = build_networks(spec, seed=seed)
    average = average_mels(bank, spec, networks.log_mel)
    networks.regressor.start_from(average.codes_CFM, average.speakers_PM)
    task = DecoderTask(networks, spec, bank, seed=seed)
    trained = train(task, config.train, engine=engine, work=work, seed=seed)
    networks = build_networks(spec, seed=seed).eval()  # on this processor, whatever trained it
    networks.load_state_dict(dict(trained.weights))
    voice = clearest_voice(SpeechDecoder(spec, networks), bank, config.voice)
    spec = spec.model_copy(update={"voice": voice})
    heldout = first_heldout(corpus, store, config.num_heldout)
    results = measured(SpeechDecoder(spec, networks), heldout)
    return Fitted(_stored(store, inputs, spec, networks), (*results, *trained.curves))


def clearest_voice(decoder: SpeechDecoder, bank: SpeechBank, wanted: str | None) -> str:
    """The speaker that a decoder will speak as.

    The wanted one; or that of the speakers with most speech whose training frames it predicts best.

    Raises:
        ConfigError: There is no such speaker.
    """
    candidates = _candidates(bank, wanted)
    if len(candidates) == 1:
        return candidates[0]
    distances = {
        speaker: float(
            np.mean([_distance(decoder, one) for one in islice(bank.utterances(speaker), 32)])
        )
        for speaker in candidates
    }
    return min(candidates, key=lambda speaker: distances[speaker])


def _candidates(bank: SpeechBank, wanted: str | None) -> tuple[str, ...]:
    """The wanted voice, or up to eight speakers with most speech, most first."""
    tokens = bank.tokens_of_speakers
    if wanted is None:
        return tuple(sorted(tokens, key=lambda name: -tokens[name])[:8])
    if wanted not in tokens:
        known = ", ".join(sorted(tokens)[:8])
        raise ConfigError(f"voice {wanted!r} is no speaker of the corpus; it has: {known}")
    return (wanted,)


def _distance(decoder: SpeechDecoder, utterance: Utterance) -> float:
    """How far predicted mel frames are from the true ones, spoken by the utterance's speaker."""
    predicted = decoder.mel(utterance.codes, voice=utterance.speaker)
    return float(np.abs(predicted - decoder.mel_of(utterance.waveform)).mean())


def measured(decoder: SpeechDecoder, heldout: Sequence[Utterance]) -> tuple[Metric, ...]:
    """Mel distances on held-out speech, in nats of amplitude, each spoken by its own speaker.

    ``decoder/mel_l1`` is that of the predicted frames, ``decoder/waveform_mel_l1`` that of the
    decoded waveform's frames. Speakers that were not trained on are left out.
    """
    predicted: list[float] = []
    heard: list[float] = []
    for utterance in heldout:
        if utterance.speaker in decoder.spec.speakers:
            truth = decoder.mel_of(utterance.waveform)
            spoken = decoder.decode(utterance.codes, voice=utterance.speaker)
            predicted.append(_distance(decoder, utterance))
            heard.append(float(np.abs(decoder.mel_of(spoken) - truth).mean()))
    if not predicted:
        return ()
    return (
        Metric("decoder/mel_l1", float(np.mean(predicted))),
        Metric("decoder/waveform_mel_l1", float(np.mean(heard))),
    )


def _codec(store: ArtifactStore, tokens: ArtifactRef) -> Codec:
    """How the tokens were made, from the facts of their manifest."""
    facts = store.manifest(tokens).facts
    try:
        return Codec(
            codebook_size=int(facts["codebook_size"]),
            samples_per_token=int(facts["samples_per_token"]),
            tokenizer=str(facts["tokenizer"]),
        )
    except KeyError as error:
        raise DataError(
            f"{tokens} does not say its {error.args[0]}: it is no token corpus"
        ) from error


def _stored(
    store: ArtifactStore, inputs: Inputs, spec: DecoderSpec, networks: DecoderNetworks
) -> ArtifactRef:
    """Publish the model with what it was made from."""
    parents = (inputs.speech, inputs.tokens)
    licences = sorted({tag for parent in parents for tag in store.manifest(parent).licences})
    with store.draft(ArtifactKind.DECODER_MODEL) as draft:
        save_decoder(draft, spec, networks)
        return draft.commit(
            parents=parents,
            licences=licences,
            facts={
                "tokenizer": spec.tokenizer,
                "codebook_size": spec.codebook_size,
                "samples_per_token": spec.samples_per_token,
                "sample_rate_hz": spec.sample_rate_hz,
                "voice": spec.voice,
            },
        )
