"""Encoder and reading heads in one module.

Shapes: B rows, C codes, T places of the CTC head, L labels, D width, V text ids. Tensors are named
``model.encoder.*`` and ``model.decoder.*`` as in Whisper and in the released tokenizer, and
``ctc_head.*``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from interloom.config.speech_tokenizer import TokenizerConfig
from interloom.speech_tokenizer.batches import SILENT, UNKNOWN
from interloom.speech_tokenizer.encoder import Encoder, valid_positions
from interloom.speech_tokenizer.layers import DecoderLayer

MAX_LABELS = 448  # Whisper's max_target_positions


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of the loss of one batch, all scalars.

    Attributes:
        decoder: Cross-entropy a label, the end included.
        ctc: CTC loss a label and place of a code: where a code has several, there are more blanks
            to learn, which would drown the rest.
        aligned: Cross-entropy of the CTC head a place, where the corpus says what is said when.
        commitment: Of the quantiser, before its weight.
        codes: Codes chosen, (N,).
        num_labels: Labels in the batch.
    """

    decoder: Tensor
    ctc: Tensor
    aligned: Tensor
    commitment: Tensor
    codes: Tensor
    num_labels: Tensor


class TextDecoder(nn.Module):
    """Whisper's decoder; begin is id V, end is V + 1; the output is tied to the embedding."""

    def __init__(self, config: TokenizerConfig, text_vocab_size: int) -> None:
        super().__init__()
        encoder = config.encoder
        width = encoder.d_model
        self.begin, self.end = text_vocab_size, text_vocab_size + 1
        self.embed_tokens = nn.Embedding(text_vocab_size + 2, width)
        self.embed_positions = nn.Embedding(MAX_LABELS, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, encoder.num_heads, encoder.ffn_dim, config.dropout)
            for _ in range(config.decoder_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        nn.init.normal_(self.embed_tokens.weight, std=width**-0.5)
        nn.init.normal_(self.embed_positions.weight, std=0.02)

    def forward(self, ids_BL: Tensor, states_BCD: Tensor, valid_BC: Tensor) -> Tensor:
        """Logits of the next id, (B, L, V + 2)."""
        return F.linear(self.hidden(ids_BL, states_BCD, valid_BC), self.embed_tokens.weight)

    def hidden(self, ids_BL: Tensor, states_BCD: Tensor, valid_BC: Tensor) -> Tensor:
        """Output of the last layer, normalised, (B, L, D)."""
        hidden = self.embed_tokens(ids_BL) + self.embed_positions.weight[: ids_BL.shape[1]]
        mask = valid_BC[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, states_BCD, mask)
        normed: Tensor = self.layer_norm(hidden)
        return normed


class _Whisper(nn.Module):
    """Encoder and decoder under the names of the published checkpoints."""

    def __init__(self, config: TokenizerConfig, text_vocab_size: int) -> None:
        super().__init__()
        self.encoder = Encoder(config.encoder, config.quantizer, config.dropout)
        self.decoder = TextDecoder(config, text_vocab_size)


class CtcHead(nn.Module):
    """Labels at one place a code, or at several: its state is spread over the frames it pools.

    It begins with the same at each place of a code.
    """

    def __init__(self, width: int, kernel: int, num_labels: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.labels = nn.Linear(width, num_labels)
        self.spread = nn.Identity() if kernel == 1 else _repeated(width, kernel)

    def forward(self, states_BCD: Tensor) -> Tensor:
        """Log-probabilities of labels and blank, (B, T, V + 1), in fp32."""
        rows, _, width = states_BCD.shape
        places_BTD = self.spread(states_BCD).reshape(rows, -1, width)
        return F.log_softmax(self.labels(places_BTD).float(), dim=-1)


def _repeated(width: int, kernel: int) -> nn.Linear:
    """A projection that begins as so many copies."""
    spread = nn.Linear(width, kernel * width)
    with torch.no_grad():
        spread.weight.copy_(torch.eye(width).repeat(kernel, 1))
        spread.bias.zero_()
    return spread


class TokenizerModel(nn.Module):
    """What is trained: P1's tokenizer with its ASR decoder, and a CTC head."""

    def __init__(self, config: TokenizerConfig, text_vocab_size: int) -> None:
        super().__init__()
        self.blank = text_vocab_size
        self.model = _Whisper(config, text_vocab_size)
        self.ctc_head = CtcHead(config.encoder.d_model, config.ctc_kernel, text_vocab_size + 1)

    @property
    def encoder(self) -> Encoder:
        """The encoder."""
        return self.model.encoder

    @property
    def decoder(self) -> TextDecoder:
        """The attention decoder."""
        return self.model.decoder

    def forward(
        self,
        mel_BFM: Tensor,
        num_codes_B: Tensor,
        labels_BL: Tensor,
        num_labels_B: Tensor,
        label_at_BT: Tensor,
    ) -> Losses:
        """Losses of a batch, whose arrays ``batches.Batch`` describes."""
        encoded = self.encoder(mel_BFM, num_codes_B)
        states = encoded.states_BCD
        num_labels = num_labels_B.sum()
        log_probs = self.ctc_head(states)
        ctc = F.ctc_loss(
            log_probs.transpose(0, 1),
            labels_BL,
            num_codes_B * self.ctc_head.kernel,
            num_labels_B,
            blank=self.blank,
            reduction="sum",
            zero_infinity=True,
        )
        return Losses(
            decoder=self._decoder_loss(states, encoded.valid_BC, labels_BL, num_labels_B),
            ctc=ctc / (num_labels.clamp(min=1) * self.ctc_head.kernel),
            aligned=self._aligned_loss(log_probs, label_at_BT),
            commitment=encoded.commitment,
            codes=encoded.codes,
            num_labels=num_labels,
        )

    def _aligned_loss(self, log_probs_BTV: Tensor, label_at_BT: Tensor) -> Tensor:
        """Mean cross-entropy of the labels, and of the blank in silence; zero where none is known.

        It shows at once which sound is which label, which CTC has to find out.
        """
        known = label_at_BT != UNKNOWN
        targets = label_at_BT.masked_fill(label_at_BT == SILENT, self.blank)[known]
        total = F.nll_loss(log_probs_BTV[known], targets, reduction="sum")
        return total / max(1, targets.numel())

    def _decoder_loss(
        self, states_BCD: Tensor, valid_BC: Tensor, labels_BL: Tensor, num_labels_B: Tensor
    ) -> Tensor:
        """Mean cross-entropy of the labels and the end, each from those before it."""
        is_label = valid_positions(num_labels_B, labels_BL.shape[1])
        known = labels_BL.masked_fill(~is_label, self.decoder.end)
        inputs = F.pad(known, (1, 0), value=self.decoder.begin)
        targets = F.pad(known, (0, 1), value=self.decoder.end)
        scored = valid_positions(num_labels_B + 1, targets.shape[1])
        logits = self.decoder(inputs, states_BCD, valid_BC)
        return F.cross_entropy(logits[scored].float(), targets[scored])
