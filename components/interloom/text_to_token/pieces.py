"""Training examples: utterances whole, pieces cut out of them, and pieces spliced together.

Interleaving asks for a few words out of context. A model that has only seen whole sentences stops
late or begins wrong there, so a part of its examples are pieces cut at word boundaries. And a model
of few sentences learns them by heart instead of reading along, so another part is pieces of one
speaker's utterances in random order, in which only the text tells what comes next.
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
        cuts: Frames at which it may be cut: before each word and after the last, (W + 1,); the
            rests before the first and after the last word lie outside.
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
    cuts = np.concatenate([starts[:1], inner, stops[-1:]]).clip(0, len(codes))
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
        self._by_speaker: dict[str, list[Spoken]] = {}
        for one in spoken:
            self._by_speaker.setdefault(one.speaker, []).append(one)
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
        """The utterance, a run of its words, or a passage of its speaker's words."""
        kind, place = rng.random(), rng.random()
        num_words = _poisson(rng, self._config.mean_piece_words)
        if kind < self._config.spliced_share:
            return self._spliced(self._by_speaker[spoken.speaker], num_words, rng)
        is_piece = kind < self._config.spliced_share + self._config.piece_share
        if not is_piece or num_words >= len(spoken.word_bytes):
            return self._example(spoken.text, spoken.codes, spoken.speaker)
        text, codes = _cut(spoken, num_words, place)
        return self._example(text, codes, spoken.speaker)

    def _spliced(self, pool: Sequence[Spoken], num_words: int, rng: np.random.Generator) -> Example:
        """Runs of words from utterances of one speaker, ``num_words`` in all."""
        texts, parts, left = [], [], num_words
        while left > 0:
            spoken = pool[int(rng.integers(len(pool)))]
            length = _poisson(rng, self._config.mean_spliced_words)
            length = min(length, left, max(1, len(spoken.word_bytes)))
            text, codes = _cut(spoken, length, rng.random())
            texts.append(text)
            parts.append(codes)
            left -= length
        return self._example(" ".join(texts), np.concatenate(parts), pool[0].speaker)

    def _example(self, text: str, codes: NDArray[np.int32], speaker: str) -> Example:
        """A piece with its prompt."""
        prompt = self._prompter.prompt(self._prompter.text_ids(text), speaker)
        return Example(prompt, codes)


def _poisson(rng: np.random.Generator, mean: float) -> int:
    """A number of words, at least one."""
    return 1 + int(rng.poisson(max(0.0, mean - 1)))


def _cut(spoken: Spoken, num_words: int, place: float) -> tuple[str, NDArray[np.int32]]:
    """A run of words with their codes; the whole utterance if its words have no times.

    Args:
        spoken: With at least ``num_words`` words, or none.
        num_words: Length of the run.
        place: Where it begins, from 0 to 1.
    """
    if len(spoken.word_bytes) == 0:
        return spoken.text, spoken.codes
    first = int(place * (len(spoken.word_bytes) - num_words + 1))
    stop = first + num_words
    start_byte, stop_byte = spoken.word_bytes[first, 0], spoken.word_bytes[stop - 1, 1]
    text = spoken.text.encode()[start_byte:stop_byte].decode()
    return text, spoken.codes[spoken.cuts[first] : spoken.cuts[stop]]
