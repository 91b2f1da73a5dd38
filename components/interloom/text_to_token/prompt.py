"""What the model reads before it speaks: a voice, the text, and the begin marker, each in time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.core.errors import ConfigError
from interloom.text.bpe import TextTokenizer
from interloom.text.speakable import speakable
from interloom.vocabulary.layout import Marker, VocabularyLayout


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prefix of a sequence. P = its length.

    Attributes:
        ids: Voice, text ids, begin marker.
        places: Expected frame of each, float32.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Prompter:
    """Makes prompts for one model.

    Attributes:
        layout: The joint vocabulary.
        voices: Speakers of the training set; each has an id after the joint vocabulary.
        frames_per_byte: Mean pace of the training set, which places text in time.
        spoken_ids: Text ids that the training set spoke; others cannot be said.
        text_tokenizer: Of the layout.
    """

    layout: VocabularyLayout
    voices: tuple[str, ...]
    frames_per_byte: float
    spoken_ids: frozenset[int]
    text_tokenizer: TextTokenizer

    @property
    def num_ids(self) -> int:
        """Rows of the model's embedding."""
        return self.layout.size + len(self.voices)

    def voice_id(self, voice: str) -> int:
        """The id of a speaker.

        Raises:
            ConfigError: The model was not trained on this speaker.
        """
        if voice not in self.voices:
            raise ConfigError(f"no voice {voice!r}; this model speaks as {', '.join(self.voices)}")
        return self.layout.size + self.voices.index(voice)

    def text_ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it is said; a word begins with its space wherever it stands."""
        return self.text_tokenizer.encode(f" {speakable(text)}")

    def can_say(self, ids: Sequence[int]) -> bool:
        """Whether every id was spoken in training."""
        return self.spoken_ids.issuperset(ids)

    def prompt(self, ids: Sequence[int], voice: str) -> Prompt:
        """The prefix for text ids and a speaker."""
        sizes = self.text_tokenizer.num_bytes(ids)
        onsets = (np.cumsum(sizes) - sizes) * self.frames_per_byte
        begin = self.layout.marker(Marker.AUDIO_BEGIN)
        return Prompt(
            np.array([self.voice_id(voice), *ids, begin], np.int64),
            np.concatenate([[-1.0], onsets, [-1.0]]).astype(np.float32),
        )
