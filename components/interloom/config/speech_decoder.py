"""The speech decoder: speech tokens to mel frames to a waveform."""

from typing import Annotated, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from interloom.config.base import Frozen
from interloom.config.training import TrainConfig, with_audio_decays


class MelRegressorConfig(Frozen):
    """Codes and a speaker to mel frames: convolutions at the token rate, then at the frame rate.

    Attributes:
        token_width: Channels at the token rate.
        num_token_layers: Blocks at the token rate.
        frame_width: Channels at the frame rate.
        num_frame_layers: Blocks at the frame rate.
        kernel_size: Positions each block sees, the centre included; odd.
        dropout: Share of the token channels that a training step zeroes.
    """

    token_width: PositiveInt = 256
    num_token_layers: PositiveInt = 6
    frame_width: PositiveInt = 96
    num_frame_layers: NonNegativeInt = 1
    kernel_size: PositiveInt = 7
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05

    @model_validator(mode="after")
    def _kernel_has_a_centre(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        return self


class VocoderConfig(Frozen):
    """Mel frames to a waveform by an inverse short-time Fourier transform.

    Attributes:
        width: Channels of each block.
        num_layers: Blocks.
        kernel_size: Frames each block sees, the centre included; odd.
        num_fft: Samples of one inverse transform; a multiple of four mel hops.
        loss_ffts: Window lengths, in samples, of the spectral losses.
        refine_iterations: Passes that make the predicted phases agree between frames.
    """

    width: PositiveInt = 160
    num_layers: PositiveInt = 4
    kernel_size: PositiveInt = 7
    num_fft: PositiveInt = 640
    loss_ffts: tuple[PositiveInt, ...] = (256, 512, 1024)
    refine_iterations: NonNegativeInt = 0

    @model_validator(mode="after")
    def _kernel_has_a_centre(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        return self


class DecoderConfig(Frozen):
    """How the speech decoder is built and trained.

    Attributes:
        num_mels: Mel bands between regressor and vocoder.
        mel_hop: Samples between mel frames; the samples of a token are a multiple of it.
        mel_fft: Samples of the window of a mel frame.
        regressor: Codes to mel frames.
        vocoder: Mel frames to samples.
        voice: The training speaker that speaks at inference; by default, of those with most speech,
            the one whose sound is predicted best.
        max_hours: Speech to train on at most, in the corpus' order; all of it by default.
        crops_per_batch: Crops of one micro-batch.
        crop_tokens: Tokens of one crop.
        vocoder_tokens: Tokens of each crop, from its middle, that the vocoder is trained on.
        predicted_share: Share of crops on which the vocoder gets predicted mel frames.
        mel_weight: Weight of the waveform's mel distance against its spectral losses.
        num_heldout: Held-out utterances to measure on.
        train: Steps, rate and engine.
    """

    num_mels: PositiveInt = 80
    mel_hop: PositiveInt = 160
    mel_fft: PositiveInt = 512
    regressor: MelRegressorConfig = MelRegressorConfig()
    vocoder: VocoderConfig = VocoderConfig()
    voice: str | None = None
    max_hours: PositiveFloat | None = None
    crops_per_batch: PositiveInt = 4
    crop_tokens: PositiveInt = 48
    vocoder_tokens: PositiveInt = 6
    predicted_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    mel_weight: NonNegativeFloat = 1.0
    num_heldout: NonNegativeInt = 32
    train: TrainConfig = with_audio_decays(
        TrainConfig(
            num_steps=1000,
            learning_rate=3e-3,
            final_learning_rate_ratio=0.03,
            warmup_steps=50,
            threads_per_rank=1,
        )
    )

    @model_validator(mode="after")
    def _the_parts_fit(self) -> Self:
        if self.vocoder.num_fft % (4 * self.mel_hop):
            raise ValueError(
                f"vocoder.num_fft must be a multiple of 4 x mel_hop = {4 * self.mel_hop}, "
                f"got {self.vocoder.num_fft}"
            )
        if self.train.precision != "fp32":
            raise ValueError(
                f"train.precision must be fp32, since spectra need it, got {self.train.precision}"
            )
        if self.vocoder_tokens > self.crop_tokens:
            raise ValueError(
                f"vocoder_tokens must be at most crop_tokens = {self.crop_tokens}, "
                f"got {self.vocoder_tokens}"
            )
        return self
