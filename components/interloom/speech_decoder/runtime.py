"""The speech decoder in use: codes in, waveforms out.

Shapes: T tokens, F mel frames, M mel bands, S samples.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.ports.store import ArtifactStore
from interloom.speech_decoder.model import EDGE_TOKENS, DecoderNetworks, DecoderSpec, load_decoder

Codes = Sequence[int] | NDArray[np.int32]
Waveform = NDArray[np.float32]


class SpeechDecoder:
    """A trained decoder with one voice of its own. Equal codes give equal samples."""

    def __init__(self, spec: DecoderSpec, networks: DecoderNetworks) -> None:
        self.spec = spec
        self._networks = networks

    @property
    def sample_rate_hz(self) -> int:
        """Of the waveforms."""
        return self.spec.sample_rate_hz

    @property
    def samples_per_token(self) -> int:
        """Samples that each code gives, exactly."""
        return self.spec.samples_per_token

    def decode(self, codes: Codes, *, voice: str | None = None) -> Waveform:
        """Speak codes.

        Args:
            codes: T codes; none at all give no sample.
            voice: A training speaker; the decoder's own voice by default.

        Returns:
            T * ``samples_per_token`` samples within [-1, 1].

        Raises:
            DataError: A code is outside the codebook, or no training speaker has that name.
        """
        with torch.inference_mode():
            waveform_S = self._networks.vocoder.speak(self._frames(codes, voice))[0]
        margin = EDGE_TOKENS * self.samples_per_token
        return torch.clamp(waveform_S[margin:-margin], -1.0, 1.0).numpy()

    def decode_batch(self, batch: Sequence[Codes]) -> list[Waveform]:
        """Speak each row as ``decode`` does: a row never depends on its neighbours."""
        return [self.decode(codes) for codes in batch]

    def mel(self, codes: Codes, *, voice: str | None = None) -> NDArray[np.float32]:
        """The mel frames that ``decode`` makes audible, (F, M).

        Raises:
            DataError: As ``decode``.
        """
        margin = EDGE_TOKENS * self.spec.frames_per_token
        return self._frames(codes, voice)[0, margin:-margin].numpy()

    def mel_of(self, waveform: Waveform) -> NDArray[np.float32]:
        """The mel frames of a recording of whole tokens, (F, M): what ``mel`` should be near to."""
        with torch.inference_mode():
            frames_BFM: Tensor = self._networks.log_mel(torch.from_numpy(waveform)[None])
        return frames_BFM[0].numpy()

    def _frames(self, codes: Codes, voice: str | None) -> Tensor:
        """Mel frames of the codes and of the silence around them, (1, F, M)."""
        codes_T = np.asarray(codes, dtype=np.int64)
        wrong = codes_T[(codes_T < 0) | (codes_T >= self.spec.codebook_size)]
        if len(wrong):
            raise DataError(
                f"code {wrong[0]} is outside the codebook [0, {self.spec.codebook_size}); "
                "subtract the vocabulary's offset of speech ids first"
            )
        padded_T = np.pad(codes_T, EDGE_TOKENS, constant_values=self.spec.no_speech)
        speaker = torch.tensor([self._speaker(voice or self.spec.voice)])
        with torch.inference_mode():
            frames: Tensor = self._networks.regressor(torch.from_numpy(padded_T)[None], speaker)
        return frames

    def _speaker(self, voice: str) -> int:
        """The index of a training speaker."""
        if voice not in self.spec.speakers:
            known = ", ".join(self.spec.speakers[:8])
            raise DataError(f"no training speaker is called {voice!r}; there are: {known}")
        return self.spec.speakers.index(voice)


def load_speech_decoder(store: ArtifactStore, ref: ArtifactRef) -> SpeechDecoder:
    """Load a decoder that ``train_decoder`` stored.

    Raises:
        DataError: The artifact is no speech decoder, or its parts do not fit each other.
    """
    return SpeechDecoder(*load_decoder(store, ref))
