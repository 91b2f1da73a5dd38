"""The decoder's two networks as one module, and how they are stored.

Shapes: B rows, T tokens, F mel frames, M mel bands, S samples.
"""

from dataclasses import dataclass

import torch
from pydantic import PositiveInt, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from interloom.config.base import Frozen
from interloom.config.speech_decoder import DecoderConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef, canonical_json
from interloom.core.errors import ConfigError, DataError
from interloom.ports.store import ArtifactDraft, ArtifactStore
from interloom.speech_decoder.regressor import MelRegressor
from interloom.speech_decoder.spectra import LogMel
from interloom.speech_decoder.vocoder import Vocoder

SAMPLE_RATE_HZ = 16_000
EDGE_TOKENS = 4  # positions without speech that stand before and after every utterance
_WEIGHTS, _CONFIG, _CARD = "model.safetensors", "config.json", "card.md"


class DecoderSpec(Frozen):
    """All that is needed to build the networks again.

    Attributes:
        config: As the recipe gave it.
        codebook_size: Codes are in ``[0, codebook_size)``.
        samples_per_token: Samples that each code stands for.
        speakers: Names of the voices, in the order of their embeddings.
        voice: The one that speaks at inference.
        tokenizer: Id of the tokenizer whose codes these are.
    """

    config: DecoderConfig
    codebook_size: PositiveInt
    samples_per_token: PositiveInt
    speakers: tuple[str, ...]
    voice: str
    tokenizer: str
    sample_rate_hz: PositiveInt = SAMPLE_RATE_HZ

    @property
    def frames_per_token(self) -> int:
        """Mel frames of one token."""
        return self.samples_per_token // self.config.mel_hop

    @property
    def no_speech(self) -> int:
        """The code of a position outside the utterance."""
        return self.codebook_size


@dataclass(frozen=True, slots=True)
class Predicted:
    """Mel frames of whole crops (B, F, M), and samples of a part of each (B, S)."""

    mel: Tensor
    waveform: Tensor


class DecoderNetworks(nn.Module):
    """Regressor and vocoder. They meet in mel frames alone: no gradient goes between them."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        config = spec.config
        if spec.samples_per_token % config.mel_hop:
            raise ConfigError(
                f"a token's {spec.samples_per_token} samples must be a multiple of "
                f"mel_hop = {config.mel_hop}"
            )
        self.log_mel = LogMel(
            num_mels=config.num_mels,
            num_fft=config.mel_fft,
            hop=config.mel_hop,
            sample_rate_hz=spec.sample_rate_hz,
        )
        self.regressor = MelRegressor(
            config.regressor,
            codebook_size=spec.codebook_size,
            num_speakers=len(spec.speakers),
            num_mels=config.num_mels,
            frames_per_token=spec.frames_per_token,
        )
        self.vocoder = Vocoder(config.vocoder, num_mels=config.num_mels, hop=config.mel_hop)

    def forward(
        self, codes_BT: Tensor, speakers_B: Tensor, part_BFM: Tensor, starts_B: Tensor
    ) -> Predicted:
        """Predict the mel frames of crops, and the waveform of a part of each.

        Args:
            codes_BT: Codes of the crops.
            speakers_B: Index of each crop's speaker.
            part_BFM: True mel frames of the parts; the vocoder gets these, except for the first
                rows, as many as ``starts_B`` has: they get predicted ones.
            starts_B: First mel frame of each of those rows' parts in its crop.
        """
        mel_BFM = self.regressor(codes_BT, speakers_B)
        num_frames = part_BFM.shape[1]
        guessed = [
            mel_BFM[row, start : start + num_frames].detach()
            for row, start in enumerate(starts_B.tolist())
        ]
        heard_BFM = (
            torch.cat([torch.stack(guessed), part_BFM[len(guessed) :]]) if guessed else part_BFM
        )
        return Predicted(mel_BFM, self.vocoder(heard_BFM))


def build_networks(spec: DecoderSpec, *, seed: int) -> DecoderNetworks:
    """Networks with weights drawn from the seed.

    Raises:
        ConfigError: The mel hop does not divide a token's samples.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DecoderNetworks(spec)


def save_decoder(draft: ArtifactDraft, spec: DecoderSpec, networks: DecoderNetworks) -> None:
    """Write weights, config and card as shards of ``draft``."""
    with draft.shard(_WEIGHTS) as shard:
        save_file(networks.state_dict(), shard.path)
    with draft.shard(_CONFIG) as shard:
        shard.path.write_bytes(canonical_json(spec.model_dump(mode="json")))
    with draft.shard(_CARD) as shard:
        shard.path.write_text(_card(spec, networks))


def load_decoder(store: ArtifactStore, ref: ArtifactRef) -> tuple[DecoderSpec, DecoderNetworks]:
    """Read what ``save_decoder`` wrote, ready for inference.

    Raises:
        DataError: The artifact is no speech decoder, or its parts do not fit each other.
    """
    if ref.kind is not ArtifactKind.DECODER_MODEL:
        raise DataError(f"{ref} is no speech decoder: expected {ArtifactKind.DECODER_MODEL}")
    manifest = store.manifest(ref)
    try:
        spec = DecoderSpec.model_validate_json(
            store.local_path(manifest.shard(_CONFIG)).read_bytes()
        )
        networks = build_networks(spec, seed=0)
        networks.load_state_dict(load_file(store.local_path(manifest.shard(_WEIGHTS))))
    except (RuntimeError, ValidationError) as error:
        raise DataError(f"{ref}: config and weights do not fit: {error}") from error
    return spec, networks.eval()


def _card(spec: DecoderSpec, networks: DecoderNetworks) -> str:
    """What a reader should know before using the model."""
    counts = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in (("regressor", networks.regressor), ("vocoder", networks.vocoder))
    }
    return (
        "# Speech decoder\n\n"
        f"Turns speech tokens ({spec.codebook_size} codes, {spec.samples_per_token} samples each) "
        f"into {spec.sample_rate_hz} Hz speech: a mel regressor of {counts['regressor']:,} "
        f"parameters and an inverse-STFT vocoder of {counts['vocoder']:,}.\n\n"
        f"It speaks as {spec.voice!r}, one of {len(spec.speakers)} training speakers, and reads "
        f"codes of tokenizer {spec.tokenizer} only.\n\n"
        "Trained by regression: pitch and phase are averages, so speech is clear but flat. It is "
        "no means to imitate a person, and holds no voice but those it was trained on.\n"
    )
