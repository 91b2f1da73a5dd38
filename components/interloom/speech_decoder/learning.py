"""What one training step of the decoder is.

Shapes: B rows, T tokens, F mel frames, M mel bands, S samples.
"""

import numpy as np
import torch
from torch import Tensor, nn

from interloom.speech_decoder.examples import SpeechBank
from interloom.speech_decoder.model import DecoderNetworks, DecoderSpec, Predicted
from interloom.speech_decoder.spectra import spectral_loss
from interloom.training.loop import Loss


class DecoderTask:
    """Regressor and vocoder learn in the same steps: a ``TrainTask``.

    The regressor learns mel frames of long crops by their L1 distance. The vocoder learns from a
    short part of each crop, by spectral losses of several windows and by the mel distance of its
    waveform: some parts from true mel frames, the others from what the regressor predicts, since
    that is what it hears in use.
    """

    def __init__(
        self, networks: DecoderNetworks, spec: DecoderSpec, bank: SpeechBank, *, seed: int
    ) -> None:
        self.module = networks
        self._networks = networks
        self._spec = spec
        self._bank = bank
        self._seed = seed

    def loss(self, module: nn.Module, index: int) -> Loss:
        """The sum of both networks' losses on the crops of ``index``."""
        config, spec = self._spec.config, self._spec
        # The index stands in the key: streams that differ in the counter alone would overlap.
        rng = np.random.Generator(np.random.Philox(key=np.array([self._seed, index], np.uint64)))
        crops = self._bank.crops(
            rng,
            num_crops=config.crops_per_batch,
            num_tokens=config.crop_tokens,
            no_speech=spec.no_speech,
            speakers=spec.speakers,
        )
        tokens_B = rng.integers(
            config.crop_tokens - config.vocoder_tokens + 1, size=config.crops_per_batch
        )
        device = next(self._networks.parameters()).device
        waveform_BS = torch.from_numpy(crops.waveform).to(device)
        with torch.no_grad():
            mel_BFM = self._networks.log_mel(waveform_BS)
        part_BFM = _parts(mel_BFM, tokens_B * spec.frames_per_token, self._part_frames)
        wanted_BS = _parts(waveform_BS, tokens_B * spec.samples_per_token, self._part_samples)
        num_guessed = round(config.predicted_share * config.crops_per_batch)
        predicted = module(
            torch.from_numpy(crops.codes).to(device),
            torch.from_numpy(crops.speakers).to(device),
            part_BFM,
            torch.from_numpy(tokens_B[:num_guessed] * spec.frames_per_token),
        )
        inside_BF = torch.from_numpy(crops.inside.repeat(spec.frames_per_token, axis=1))
        return self._judge(predicted, mel_BFM, inside_BF.to(device), wanted_BS)

    @property
    def _part_frames(self) -> int:
        return self._spec.config.vocoder_tokens * self._spec.frames_per_token

    @property
    def _part_samples(self) -> int:
        return self._spec.config.vocoder_tokens * self._spec.samples_per_token

    def _judge(
        self, predicted: Predicted, mel_BFM: Tensor, inside_BF: Tensor, wanted_BS: Tensor
    ) -> Loss:
        """Compare with the truth."""
        config = self._spec.config
        distance_BF = (predicted.mel - mel_BFM).abs().mean(dim=2)
        mel_loss = (distance_BF * inside_BF).sum() / inside_BF.sum()
        heard_BS = predicted.waveform
        spectral = torch.stack(
            [spectral_loss(heard_BS, wanted_BS, length) for length in config.vocoder.loss_ffts]
        ).mean()
        log_mel = self._networks.log_mel
        echo = (log_mel(heard_BS) - log_mel(wanted_BS)).abs().mean()
        value = mel_loss + spectral + config.mel_weight * echo
        curves = {"mel_l1": mel_loss, "spectral": spectral, "vocoder_mel_l1": echo}
        sums: dict[str, Tensor | float] = {}
        for name, curve in curves.items():
            sums[name] = curve.detach()
            sums[f"{name}/weight"] = 1.0
        return Loss(value, sums)


def _parts(
    whole: Tensor, starts: "np.ndarray[tuple[int], np.dtype[np.int64]]", length: int
) -> Tensor:
    """``length`` positions of each row, from its start."""
    return torch.stack(
        [row[start : start + length] for row, start in zip(whole, starts.tolist(), strict=True)]
    )
