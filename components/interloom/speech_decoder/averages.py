"""Average mel frames of codes and speakers, from one pass over training speech.

Shapes: T tokens, F mel frames of a token, M mel bands, C codes, P speakers.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interloom.speech_decoder.examples import SpeechBank
from interloom.speech_decoder.model import DecoderSpec
from interloom.speech_decoder.spectra import POWER_FLOOR, LogMel

_MAX_TOKENS = 1_000_000  # averages do not get better with more


@dataclass(frozen=True, slots=True)
class AverageMels:
    """What a token sounds like, knowing its code and speaker alone.

    Attributes:
        codes_CFM: Frames of each code, the last row those of "no speech": silence. A code that
            training speech lacks has the frames of all.
        speakers_PM: What a speaker's frames are above those of their codes, on average.
    """

    codes_CFM: Tensor
    speakers_PM: Tensor


def average_mels(bank: SpeechBank, spec: DecoderSpec, log_mel: LogMel) -> AverageMels:
    """Average over the first million tokens of training speech."""
    shape = (spec.codebook_size + 1, spec.frames_per_token, spec.config.num_mels)
    sums_CFM = np.zeros(shape, dtype=np.float64)
    counts_CP = np.zeros((shape[0], len(spec.speakers)), dtype=np.float64)
    sums_PM = np.zeros((len(spec.speakers), shape[2]), dtype=np.float64)
    for utterance in bank.utterances():
        with torch.no_grad():
            frames = log_mel(torch.from_numpy(utterance.waveform)[None])[0].numpy()
        mel_TFM = frames.reshape(-1, *shape[1:])
        speaker = spec.speakers.index(utterance.speaker)
        np.add.at(sums_CFM, utterance.codes, mel_TFM)
        np.add.at(counts_CP[:, speaker], utterance.codes, 1)
        sums_PM[speaker] += mel_TFM.mean(axis=1).sum(axis=0)
        if counts_CP.sum() > _MAX_TOKENS:
            break
    counts_C = counts_CP.sum(axis=1)
    overall_FM = sums_CFM.sum(axis=0) / counts_C.sum()
    seen_C = counts_C[:, None, None] > 0
    codes_CFM = np.where(seen_C, sums_CFM / np.maximum(counts_C, 1)[:, None, None], overall_FM)
    expected_PM = counts_CP.T @ codes_CFM.mean(axis=1)
    codes_CFM[spec.no_speech] = 0.5 * math.log(POWER_FLOOR)
    speakers_PM = (sums_PM - expected_PM) / np.maximum(counts_CP.sum(axis=0), 1)[:, None]
    return AverageMels(
        torch.from_numpy(codes_CFM.astype(np.float32)),
        torch.from_numpy(speakers_PM.astype(np.float32)),
    )
