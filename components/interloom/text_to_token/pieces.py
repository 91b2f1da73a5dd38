"""Training examples: utterances whole, and pieces cut out of them at word boundaries.

Interleaving asks for a few words out of context. A model that has only seen whole sentences stops
late or begins wrong there, so a part of its examples are such pieces.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.config.text_to_token import TextToTokenConfig
from interloom.text.words import find_words
from interloom.text_to_token.prompt import Prompt, Prompter


@dataclass(frozen=True, slots=True)
class Spoken:
    """One utterance of the training set. W = words, F = codec frames.

    Attributes:
        text: What is said.
        codes: Its speech codes.
        speaker: Who says it.
        word_bytes: Place of each word in the UTF-8 text; empty if its times are unknown.
        cuts: Frames at which it may be cut: before each word and after the last, (W + 1,).
    """

    text: str
    codes: NDArray[np.int32]
    speaker: str
    word_bytes: NDArray[np.int64]
    cuts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the codes that answer it."""

    prompt: Prompt
    codes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.codes)


def read_spoken(rows: Iterable[Mapping[str, Any]]) -> list[Spoken]:
    """Utterances of a table of speech tokens; those without text or codes are left out."""
    return [_read_row(row) for row in rows if row["text"].strip() and row["codes"]]


def _read_row(row: Mapping[str, Any]) -> Spoken:
    """Cuts stand halfway through the silence between two words."""
    words = find_words(row["text"])
    codes = np.array(row["codes"], np.int32)
    times = [(word["start"], word["stop"]) for word in row["words"]]
    if len(times) != len(words):  # the aligner saw other words: only the whole can be used
        empty = np.zeros((0, 2), np.int64)
        return Spoken(row["text"], codes, row["speaker"], empty, np.zeros(1, np.int64))
    starts, stops = np.array(times, np.int64).reshape(-1, 2).T
    inner = (stops[:-1] + starts[1:] + 1) // 2
    cuts = np.concatenate([[0], inner, [len(codes)]]).clip(0, len(codes))
    word_bytes = np.stack([words.start, words.stop], axis=1)
    return Spoken(row["text"], codes, row["speaker"], word_bytes, np.maximum.accumulate(cuts))


class Pieces:
    """Batches of examples as a pure function of (seed, index)."""

    def __init__(
        self,
        spoken: Sequence[Spoken],
        prompter: Prompter,
        config: TextToTokenConfig,
        *,
        seed: int,
    ) -> None:
        self._spoken = spoken
        self._prompter = prompter
        self._config = config
        self._seed = seed
        self.batches_per_epoch = -(-len(spoken) // config.rows_per_batch)
        self._epoch = lru_cache(maxsize=1)(self._plan)

    def batch(self, index: int) -> list[Example]:
        """The examples of micro-batch ``index``, of about one length."""
        epoch, place = divmod(index, self.batches_per_epoch)
        return self._epoch(epoch)[place]

    def _plan(self, epoch: int) -> list[list[Example]]:
        """All batches of an epoch: every utterance once, whole or a piece of it, by length."""
        rng = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        examples = [self._draw(spoken, rng) for spoken in self._spoken]
        lengths = np.array([len(example) for example in examples])
        order = np.lexsort((rng.random(len(lengths)), lengths))
        rows = self._config.rows_per_batch
        starts = rng.permutation(range(0, len(order), rows))
        batches = [[examples[at] for at in order[start : start + rows]] for start in starts]
        limit = self._config.max_positions
        return [[one for one in batch if len(one) <= limit] or [batch[0]] for batch in batches]

    def _draw(self, spoken: Spoken, rng: np.random.Generator) -> Example:
        """The whole utterance, or a run of its words."""
        num_words = len(spoken.word_bytes)
        is_piece = rng.random() < self._config.piece_share
        length = 1 + int(rng.poisson(self._config.mean_piece_words - 1))
        place = rng.random()
        if not is_piece or length >= num_words:
            return self._example(spoken.text, spoken.codes, spoken.speaker)
        first = int(place * (num_words - length + 1))
        return self._piece(spoken, first, first + length)

    def _piece(self, spoken: Spoken, first: int, stop: int) -> Example:
        """Words ``[first, stop)`` with their codes."""
        start_byte, stop_byte = spoken.word_bytes[first, 0], spoken.word_bytes[stop - 1, 1]
        text = spoken.text.encode()[start_byte:stop_byte].decode()
        codes = spoken.codes[spoken.cuts[first] : spoken.cuts[stop]]
        if not len(codes):
            return self._example(spoken.text, spoken.codes, spoken.speaker)
        return self._example(text, codes, spoken.speaker)

    def _example(self, text: str, codes: NDArray[np.int32], speaker: str) -> Example:
        """A piece with its prompt."""
        prompt = self._prompter.prompt(self._prompter.text_ids(text), speaker)
        return Example(prompt, codes)
