"""A trained tokenizer: waveforms to codes, codes to text, words to spans.

Shapes: S audio samples at 16 kHz, C codes.

The codes of an utterance are what the encoder gives for it alone, padded to its bucket's length, in
fp32 on one thread. Nothing else enters: not the batch it came in, not how many threads there are.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interloom.audio.mel import log_mel
from interloom.config.speech_tokenizer import (
    SAMPLE_RATE_HZ,
    SAMPLES_PER_MEL_FRAME,
    TokenizerConfig,
)
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.core.spans import FrameClock, Span
from interloom.ports.store import ArtifactStore
from interloom.speech_tokenizer.artifact import load_model
from interloom.speech_tokenizer.features import labels_of
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.speech_tokenizer.pieces import Piece, cut, num_tokens
from interloom.speech_tokenizer.reading import ctc_align, ctc_greedy, decoder_greedy
from interloom.text.bpe import TextTokenizer, load_text_tokenizer

Waveform = NDArray[np.float32]
Codes = NDArray[np.int32]
AnyCodes = NDArray[np.integer[Any]]
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class SpeechTokenizer:
    """Encoder, codebook and reading heads of one artifact.

    Attributes:
        config: How it is built.
        text_tokenizer: Gives its labels.
        model: In evaluation mode, without gradients.
    """

    config: TokenizerConfig
    text_tokenizer: TextTokenizer
    model: TokenizerModel

    @property
    def samples_per_token(self) -> int:
        """Audio samples of one code."""
        return self.config.encoder.samples_per_token

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.config.quantizer.codebook_size

    @property
    def clock(self) -> FrameClock:
        """Samples to codes."""
        return FrameClock(SAMPLE_RATE_HZ, self.samples_per_token)

    def encode(self, waveforms: Sequence[Waveform]) -> list[Codes]:
        """The codes of each utterance: ``ceil(S / samples_per_token)`` of them.

        What is longer than the position table is cut where it is quietest.
        """
        return self._map(self._encode_one, waveforms)

    def read(self, codes: Sequence[AnyCodes]) -> list[str]:
        """What the configured head reads in each utterance's codes."""
        return self._map(self._read_one, codes)

    def align(self, codes: AnyCodes, words: Sequence[str]) -> list[Span]:
        """The most likely span of codes of each word, by CTC.

        Args:
            codes: One utterance's.
            words: What is said in it, as written, in order.

        Returns:
            One span a word, in order and disjoint.

        Raises:
            DataError: The words need more labels than there are codes.
        """
        if not words:
            return []
        pieces = [labels_of(self.text_tokenizer, word) for word in words]
        labels = [label for piece in pieces for label in piece]
        spans = ctc_align(self._log_probs(codes), labels, blank=self.model.blank)
        found: list[Span] = []
        for piece in pieces:
            taken, spans = spans[: len(piece)], spans[len(piece) :]
            found.append(Span(taken[0].start, taken[-1].stop))
        return found

    def _encode_one(self, waveform_S: Waveform) -> Codes:
        """Codes of one utterance, piece by piece."""
        out = np.zeros(num_tokens(len(waveform_S), self.config.encoder), np.int32)
        for piece in cut(waveform_S, self.config.encoder):
            stop = piece.start_token + piece.num_tokens
            stride = self.samples_per_token
            heard = waveform_S[piece.start_token * stride : stop * stride]
            out[piece.start_token : stop] = self._encode_piece(heard, piece)
        return out

    @torch.no_grad()
    def _encode_piece(self, waveform_S: Waveform, piece: Piece) -> Codes:
        """Codes of a piece, alone in its bucket's shape."""
        encoder = self.config.encoder
        per_token = self.samples_per_token // SAMPLES_PER_MEL_FRAME
        mel = np.zeros((1, piece.padded_tokens * per_token, encoder.num_mel_bins), np.float32)
        frames = piece.num_tokens * per_token
        mel[0, :frames] = log_mel(waveform_S, num_mel_bins=encoder.num_mel_bins, num_frames=frames)
        codes = self.model.encoder.encode(torch.from_numpy(mel), torch.tensor([piece.num_tokens]))
        piece_codes: Codes = codes[0, : piece.num_tokens].numpy().astype(np.int32)
        return piece_codes

    def _read_one(self, codes: AnyCodes) -> str:
        """The text of one utterance's codes, piece by piece."""
        labels: list[int] = []
        for states in self._states(codes):
            match self.config.reader:
                case "ctc":
                    log_probs = self.model.ctc_log_probs(states)
                    labels += ctc_greedy(log_probs, blank=self.model.blank)
                case "decoder":
                    labels += decoder_greedy(self.model, states)
        return self.text_tokenizer.decode(labels).strip()

    def _log_probs(self, codes: AnyCodes) -> NDArray[np.float32]:
        """The CTC head's log-probabilities, (C, V + 1)."""
        with _one_thread_each() as workers:
            states = workers.submit(self._states, codes).result()
        parts = [self.model.ctc_log_probs(part).numpy() for part in states]
        return np.concatenate([np.zeros((0, self.model.blank + 1), np.float32), *parts])

    @torch.no_grad()
    def _states(self, codes: AnyCodes) -> list[Tensor]:
        """The encoder's states of each piece of the codes, (C, D)."""
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise DataError(
                f"codes must lie in [0, {self.codebook_size}), got [{int(codes.min())}, "
                f"{int(codes.max())}]; were they made by another tokenizer?"
            )
        longest = self.config.encoder.max_tokens
        states: list[Tensor] = []
        for start in range(0, len(codes), longest):
            part = torch.from_numpy(codes[start : start + longest].astype(np.int64))
            states.append(self.model.encoder.states_of(part[None], torch.tensor([len(part)]))[0])
        return states

    def _map(self, function: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
        """Apply to each item, as many at a time as torch has threads, each on one thread."""
        with _one_thread_each() as workers:
            return list(workers.map(function, items))


def load_speech_tokenizer(store: ArtifactStore, ref: ArtifactRef) -> SpeechTokenizer:
    """The tokenizer of an artifact, and the text tokenizer that it names, from one store.

    Raises:
        DataError: The artifact is not a speech tokenizer, or its files contradict each other.
        MissingError: The store lacks the artifact or its text tokenizer.
    """
    loaded = load_model(store, ref)
    return SpeechTokenizer(
        config=loaded.config,
        text_tokenizer=load_text_tokenizer(store, loaded.text_tokenizer),
        model=loaded.model,
    )


@contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, each of which computes on one.

    The number of threads of one operation can change its last bits, and with them a code; the
    number of workers cannot.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as workers:
            yield workers
    finally:
        torch.set_num_threads(threads)
