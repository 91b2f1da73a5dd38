"""A trained tokenizer: waveforms to codes, codes to text, words to spans.

Shapes: S audio samples at 16 kHz, C codes.

The codes of an utterance are those that the encoder gives for it alone (``encoding``). Nothing else
enters: not the batch it came in, not how many threads there are, not the chunks it came in.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interloom.audio.files import check_finite
from interloom.audio.mel import LOOK_AHEAD_SAMPLES
from interloom.config.speech_tokenizer import SAMPLE_RATE_HZ, TokenizerConfig
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.core.spans import FrameClock
from interloom.ports.store import ArtifactStore
from interloom.speech_tokenizer.alignment import AlignedWord, Heard, align_words, loud_codes
from interloom.speech_tokenizer.artifact import load_model
from interloom.speech_tokenizer.encoding import (
    Codes,
    StreamingEncoder,
    encode_alike,
    mel_of,
)
from interloom.speech_tokenizer.features import labels_of
from interloom.speech_tokenizer.model import TokenizerModel
from interloom.speech_tokenizer.pieces import Piece, pieces_of
from interloom.speech_tokenizer.reading import ctc_greedy, decoder_greedy
from interloom.text.bpe import TextTokenizer, load_text_tokenizer

Waveform = NDArray[np.float32]
AnyCodes = NDArray[np.integer[Any]]
Item = TypeVar("Item")
Made = TypeVar("Made")

_BATCH_TOKENS = 1500
_NARROW = 256


@dataclass(frozen=True, slots=True)
class Encodings:
    """Codes of utterances.

    Attributes:
        codes: Of each.
        num_again: How many codes, being near ties, were computed a second time.
    """

    codes: tuple[Codes, ...]
    num_again: int


@dataclass(frozen=True, slots=True)
class _Heard:
    """A piece of an utterance, with the samples that its codes depend on."""

    row: int
    piece: Piece
    waveform_S: Waveform


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

        What is longer than the position table is encoded in pieces that overlap.

        Raises:
            DataError: A sample is not a finite number, or there is no codebook yet.
        """
        return list(self.encode_all(waveforms).codes)

    def encode_all(self, waveforms: Sequence[Waveform]) -> Encodings:
        """The codes of each utterance, and how many had to be computed twice.

        Raises:
            DataError: A sample is not a finite number.
        """
        self._need_codes()
        for waveform in waveforms:
            check_finite(waveform)
        batches = list(_batches(self._pieces(waveforms), self._batch_tokens))
        parts: list[list[tuple[int, Codes]]] = [[] for _ in waveforms]
        num_again = 0
        for batch, (given, again) in zip(batches, self._map(self._together, batches), strict=True):
            num_again += again
            for one, codes in zip(batch, given, strict=True):
                parts[one.row].append((one.piece.start_token, codes))
        none = np.zeros(0, np.int32)
        ordered = (sorted(part, key=lambda one: one[0]) for part in parts)
        found = tuple(np.concatenate([none, *(codes for _, codes in part)]) for part in ordered)
        return Encodings(found, num_again)

    def stream(self, chunks: Iterable[Waveform]) -> Iterator[Codes]:
        """The codes of one recording while it comes in; memory does not grow with its length.

        Joined, they are those of ``encode``. The chunks are computed on one thread.

        Raises:
            DataError: A sample is not a finite number.
        """
        self._need_codes()
        encoder = StreamingEncoder(self.model.encoder)
        with _one_thread_each() as workers:
            for chunk in chunks:
                check_finite(chunk)
                yield workers.submit(encoder.push, chunk).result()
            yield workers.submit(encoder.finish).result()

    def read(self, codes: Sequence[AnyCodes]) -> list[str]:
        """What the configured head reads in each utterance's codes."""
        return self._map(self._read_one, codes)

    def align(
        self, codes: AnyCodes, words: Sequence[str], waveform: Waveform | None = None
    ) -> list[AlignedWord]:
        """The most likely span of samples of each word, by CTC, and whether it can be right.

        Args:
            codes: One utterance's.
            words: What is said in it, as written, in order.
            waveform: Its sound, which says where words end.

        Raises:
            DataError: The words need more labels than the CTC head has places.
        """
        if not words:
            return []
        log_probs = self._log_probs(codes)
        is_loud = np.ones(len(log_probs), np.bool_)
        if waveform is not None:
            is_loud = loud_codes(waveform, self.samples_per_token).repeat(self.config.ctc_kernel)
        heard = Heard(log_probs, is_loud, self.config.samples_per_place)
        labels = [labels_of(self.text_tokenizer, word) for word in words]
        return align_words(heard, words, labels, blank=self.model.blank)

    def _together(self, heard: Sequence[_Heard]) -> tuple[list[Codes], int]:
        """The codes that some pieces give, and how many were computed again."""
        config = self.config.encoder
        mels = [mel_of(one.waveform_S, config, one.piece.heard_tokens) for one in heard]
        codes, num_again = encode_alike(self.model.encoder, mels)
        given = [found[one.piece.context_tokens :] for one, found in zip(heard, codes, strict=True)]
        return given, num_again

    def _need_codes(self) -> None:
        """Refuse to look vectors up in a codebook that was never set."""
        if not bool(self.model.encoder.codebook.is_ready):
            raise DataError(
                "this tokenizer has no codebook yet: it ended before quantizer.start_step, or is a "
                "Whisper without one; train with tokenizer.start_from set to it"
            )

    @property
    def _batch_tokens(self) -> int:
        """Tokens that are computed together. On a processor wide models gain nothing by it."""
        is_gpu = self.model.encoder.conv1.weight.is_cuda
        if is_gpu or self.config.encoder.d_model <= _NARROW:
            return _BATCH_TOKENS * (8 if is_gpu else 1)
        return 1

    def _pieces(self, waveforms: Sequence[Waveform]) -> list[_Heard]:
        """All pieces of all utterances."""
        config = self.config.encoder
        heard = list[_Heard]()
        for row, waveform in enumerate(waveforms):
            for piece in pieces_of(len(waveform), config):
                first = piece.start_token - piece.context_tokens
                stop = (first + piece.heard_tokens) * self.samples_per_token + LOOK_AHEAD_SAMPLES
                heard.append(_Heard(row, piece, waveform[first * self.samples_per_token : stop]))
        return heard

    def _read_one(self, codes: AnyCodes) -> str:
        """The text of one utterance's codes, piece by piece."""
        labels: list[int] = []
        for states in self._states(codes):
            match self.config.reader:
                case "ctc":
                    labels += ctc_greedy(
                        self.model.ctc_head(states[None])[0], blank=self.model.blank
                    )
                case "decoder":
                    labels += decoder_greedy(self.model, states)
        return self.text_tokenizer.decode(labels).strip()

    def _log_probs(self, codes: AnyCodes) -> NDArray[np.float32]:
        """The CTC head's log-probabilities, (T, V + 1)."""
        with _one_thread_each() as workers:
            states = workers.submit(self._states, codes).result()
        parts = [self.model.ctc_head(part[None])[0].numpy() for part in states]
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


def _batches(heard: Sequence[_Heard], max_tokens: int) -> Iterator[list[_Heard]]:
    """Pieces of like length, as many together as fit; one at least."""
    batch = list[_Heard]()
    for one in sorted(heard, key=lambda one: -one.piece.heard_tokens):
        if batch and (len(batch) + 1) * batch[0].piece.heard_tokens > max_tokens:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


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
