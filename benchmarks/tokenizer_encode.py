"""Waveforms to codes: Interloom against transformers' WhisperEncoder and vector-quantize-pytorch.

Both hold the same random weights of Whisper tiny, pool four frames to one and look the means up in
the same codebook of 4096 codes. The peer is used as its documentation says: its feature extractor
pads each clip to 30 seconds, and a batch goes through the encoder. A clip of 30 seconds, which
needs no padding, must have the same codes on both sides.

    python benchmarks/tokenizer_encode.py
"""

from collections.abc import Sequence

import numpy as np
import torch
from _sides import OURS, compared, rates_in_turns, show
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from vector_quantize_pytorch import VectorQuantize

from interloom.config.speech_tokenizer import EncoderConfig, QuantizerConfig, TokenizerConfig
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.speech_tokenizer.runtime import SpeechTokenizer
from interloom.speech_tokenizer.weights import load_whisper
from interloom.text.bpe import TextTokenizer

WIDTH, LAYERS, HEADS, FFN, POOL, CODES = 384, 4, 6, 1536, 4, 4096
BATCH, TURNS = 8, 3
SECONDS = (1, 2, 3, 4, 5, 7, 8, 10, 11, 13, 15, 17, 20, 23, 26, 30)

Waveform = NDArray[np.float32]


class Peer:
    """The usual way: pad to 30 seconds, encode, pool, look up."""

    def __init__(self) -> None:
        config = WhisperConfig(
            d_model=WIDTH,
            encoder_layers=LAYERS,
            encoder_attention_heads=HEADS,
            encoder_ffn_dim=FFN,
        )
        self.encoder = WhisperEncoder(config).eval()
        self.encoder.layer_norm = nn.Identity()  # vectors are looked up before it
        self.quantizer = VectorQuantize(dim=WIDTH, codebook_size=CODES).eval()
        self._extractor = WhisperFeatureExtractor(feature_size=80)

    @torch.no_grad()
    def encode(self, waveforms: Sequence[Waveform]) -> list[NDArray[np.int64]]:
        """Codes of all clips."""
        found = []
        for start in range(0, len(waveforms), BATCH):
            batch = waveforms[start : start + BATCH]
            features = self._extractor(list(batch), sampling_rate=16_000, return_tensors="pt")
            pooled = self.vectors(features["input_features"])
            codes = self.quantizer(pooled)[1].numpy()
            found += [
                row[: -(-len(waveform) // (320 * POOL))]
                for row, waveform in zip(codes, batch, strict=True)
            ]
        return found

    def vectors(self, features_BMF: torch.Tensor) -> torch.Tensor:
        """What is looked up, (B, C, D)."""
        states = self.encoder(features_BMF).last_hidden_state
        return F.avg_pool1d(states.transpose(1, 2), POOL).transpose(1, 2)


def build() -> tuple[SpeechTokenizer, Peer]:
    """Both sides with the same weights."""
    torch.manual_seed(0)
    peer = Peer()
    config = TokenizerConfig(
        encoder=EncoderConfig(
            d_model=WIDTH,
            num_heads=HEADS,
            ffn_dim=FFN,
            num_layers=LAYERS,
            pool_kernel=POOL,
            pool_after_layer=LAYERS,
            quantize_after_layer=LAYERS,
            block_frames=None,
            window_frames=None,
            is_stem_causal=False,
            relative_reach=None,
        ),
        quantizer=QuantizerConfig(codebook_size=CODES),
        decoder_layers=1,
    )
    text = TextTokenizer.train([" a"], vocab_size=257)
    model = TokenizerModel(config, text.vocab_size).eval().requires_grad_(requires_grad=False)
    state = {
        **{f"model.encoder.{name}": value for name, value in peer.encoder.state_dict().items()},
        "model.encoder.layer_norm.weight": torch.ones(WIDTH),
        "model.encoder.layer_norm.bias": torch.zeros(WIDTH),
    }
    load_whisper(model, state)
    _share_codes(model, peer)
    return SpeechTokenizer(config, text, model), peer


@torch.no_grad()
def _share_codes(model: TokenizerModel, peer: Peer) -> None:
    """Give both the same codes: vectors of noise, of which there are enough."""
    mel = torch.randn(CODES // 375 + 1, 80, 3000, generator=torch.Generator().manual_seed(2))
    codes = peer.vectors(mel).flatten(0, 1)[:CODES]
    model.encoder.codebook.weight.copy_(codes)
    model.encoder.codebook.is_ready.fill_(value=True)
    inner = peer.quantizer._codebook  # noqa: SLF001 - the only way to give it codes
    inner.embed.data.copy_(codes[None])
    inner.initted.data.fill_(1)


def clips() -> list[Waveform]:
    """Noise that rises and falls, of 1 to 30 seconds."""
    rng = np.random.Generator(np.random.Philox(0))
    made = []
    for seconds in SECONDS:
        loud = np.repeat(rng.uniform(0.01, 0.3, seconds * 10), 1600)
        made.append((loud * rng.standard_normal(len(loud))).astype(np.float32))
    return [made[place] for place in rng.permutation(len(made))]


def main() -> None:
    """Print the figure as JSON."""
    ours, peer = build()
    waveforms = clips()
    longest = max(waveforms, key=len)
    differing = int((ours.encode([longest])[0] != peer.encode([longest])[0]).sum())
    if differing > 1:  # a near tie may fall on the other side of fp32 rounding
        raise SystemExit(f"{differing} codes of the longest clip differ")
    seconds = sum(map(len, waveforms)) / 16_000
    tasks = {
        OURS: lambda: ours.encode(waveforms),
        "transformers and vector-quantize-pytorch": lambda: peer.encode(waveforms),
    }
    config = {"clips": len(waveforms), "seconds": round(seconds), "differing": differing}
    rates = rates_in_turns(tasks, seconds, TURNS)
    show("tokenizer_encode", "seconds of speech a second", [config | compared(rates, 1)])


if __name__ == "__main__":
    main()
