"""Codes and a speaker to mel frames.

Shapes: B rows, T tokens, F mel frames, D channels, M mel bands, C codes, P speakers.
"""

import torch
from torch import Tensor, nn

from interloom.config.speech_decoder import MelRegressorConfig
from interloom.speech_decoder.blocks import ConvNextBlock

_EMBEDDING_STD = 0.1  # small, so that what is learnt soon outweighs what was drawn


class MelRegressor(nn.Module):
    """Convolutions at the token rate, a learned upsampling, convolutions at the frame rate.

    Convolutions rather than attention: the sound of a token hangs on its near neighbours, and with
    a bounded field of view a part of an utterance can be decoded as in the whole.
    """

    def __init__(
        self,
        config: MelRegressorConfig,
        *,
        codebook_size: int,
        num_speakers: int,
        num_mels: int,
        frames_per_token: int,
    ) -> None:
        super().__init__()
        token_width, frame_width = config.token_width, config.frame_width
        self.frames_per_token = frames_per_token
        self.codes = nn.Embedding(codebook_size + 1, token_width)  # the last one: no speech
        self.token_speakers = nn.Embedding(num_speakers, token_width)
        self.frame_speakers = nn.Embedding(num_speakers, frame_width)
        self.dropout = nn.Dropout(config.dropout)
        self.token_blocks = nn.Sequential(
            *(
                ConvNextBlock(token_width, config.kernel_size)
                for _ in range(config.num_token_layers)
            )
        )
        self.token_norm = nn.LayerNorm(token_width)
        self.upsample = nn.Linear(token_width, frames_per_token * frame_width)
        self.frame_blocks = nn.Sequential(
            *(
                ConvNextBlock(frame_width, config.kernel_size)
                for _ in range(config.num_frame_layers)
            )
        )
        self.frame_norm = nn.LayerNorm(frame_width)
        self.head = nn.Linear(frame_width, num_mels)
        self.code_mels = nn.Embedding(codebook_size + 1, frames_per_token * num_mels)
        self.speaker_mels = nn.Embedding(num_speakers, num_mels)
        for table in (self.codes, self.token_speakers, self.frame_speakers, self.speaker_mels):
            nn.init.normal_(table.weight, std=_EMBEDDING_STD)

    @torch.no_grad()
    def start_from(self, code_mels_CFM: Tensor, speaker_mels_PM: Tensor) -> None:
        """Begin with average frames of codes and speakers: the networks then learn what differs.

        A corpus of an hour teaches a network little more than such averages in its first third of
        the steps; a sum over the corpus gives them at once.

        Args:
            code_mels_CFM: For each code and for "no speech", the frames of a token.
            speaker_mels_PM: What each speaker adds to them.
        """
        self.code_mels.weight.copy_(code_mels_CFM.flatten(1))
        self.speaker_mels.weight.copy_(speaker_mels_PM)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, codes_BT: Tensor, speakers_B: Tensor) -> Tensor:
        """Mel frames of shape (B, T * frames_per_token, M)."""
        token_BTD = self.codes(codes_BT) + self.token_speakers(speakers_B)[:, None]
        token_BTD = self.token_norm(self.token_blocks(self.dropout(token_BTD)))
        frame_BFD = self.upsample(token_BTD).unflatten(-1, (self.frames_per_token, -1))
        frame_BFD = frame_BFD.flatten(1, 2) + self.frame_speakers(speakers_B)[:, None]
        change_BFM: Tensor = self.head(self.frame_norm(self.frame_blocks(frame_BFD)))
        average_BFM: Tensor = self.code_mels(codes_BT).reshape(change_BFM.shape)
        mel_BFM: Tensor = average_BFM + self.speaker_mels(speakers_B)[:, None] + change_BFM
        return mel_BFM
