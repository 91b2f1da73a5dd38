"""What the model reads before it speaks: a voice, the text and the begin marker, at places."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
        places: Rotary position of each, float32.
        first_place: That of the first code; each further one stands one after it.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.float32]
    first_place: float = 0.0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class InputIds:
    """The rows of a model's embedding: text, then markers, then codes, then voices.

    Attributes:
        begin: The begin marker.
        speech_offset: Code 0.
        first_voice: The first voice; as many follow as there are.
        num_voices: Voices.
    """

    begin: int
    speech_offset: int
    first_voice: int
    num_voices: int

    @classmethod
    def of_layout(cls, layout: VocabularyLayout, num_voices: int) -> "InputIds":
        """Those of the joint vocabulary; voices come after it."""
        begin = layout.marker(Marker.AUDIO_BEGIN)
        return cls(begin, layout.speech_offset, layout.size, num_voices)

    @classmethod
    def of_base(cls, num_text_ids: int, codebook_size: int, num_voices: int) -> "InputIds":
        """Those of a base model keep their places; marker, codes and voices come after them."""
        offset = num_text_ids + 1
        return cls(num_text_ids, offset, offset + codebook_size, num_voices)

    @property
    def size(self) -> int:
        """Rows of the embedding."""
        return self.first_voice + self.num_voices


@dataclass(frozen=True, slots=True)
class Prompter:
    """Makes prompts for one model.

    Attributes:
        layout: The joint vocabulary whose codes the model speaks.
        ids: The rows of its embedding.
        voices: Speakers of the training set.
        frames_per_byte: Mean pace of the training set, which places text in time; None for a model
            whose positions are those of a plain sequence.
        spoken_ids: Text ids that the training set spoke; others cannot be said. None for a model
            that begins from a base, which knows them all.
        text_tokenizer: Of the layout, or of the base model.
    """

    layout: VocabularyLayout
    ids: InputIds
    voices: tuple[str, ...]
    frames_per_byte: float | None
    spoken_ids: frozenset[int] | None
    text_tokenizer: TextTokenizer

    def voice_id(self, voice: str) -> int:
        """The id of a speaker.

        Raises:
            ConfigError: The model was not trained on this speaker.
        """
        if voice not in self.voices:
            raise ConfigError(f"no voice {voice!r}; this model speaks as {', '.join(self.voices)}")
        return self.ids.first_voice + self.voices.index(voice)

    def text_ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it is said; a word begins with its space wherever it stands."""
        return self.text_tokenizer.encode(f" {speakable(text)}")

    def can_say(self, ids: Sequence[int]) -> bool:
        """Whether every id was spoken in training, or is known from reading."""
        return self.spoken_ids is None or self.spoken_ids.issuperset(ids)

    def unsaid(self, text: str) -> str:
        """The first word of ``text`` that cannot be said; empty if there is none."""
        for word in speakable(text).split():
            if not self.can_say(self.text_tokenizer.encode(f" {word}")):
                return word
        return ""

    def prompt(self, ids: Sequence[int], voice: str) -> Prompt:
        """The prefix for text ids and a speaker."""
        read = np.array([self.voice_id(voice), *ids, self.ids.begin], np.int64)
        if self.frames_per_byte is None:
            return Prompt(read, np.arange(len(read), dtype=np.float32), float(len(read)))
        sizes = self.text_tokenizer.num_bytes(ids)
        onsets = (np.cumsum(sizes) - sizes) * self.frames_per_byte
        return Prompt(read, np.concatenate([[-1.0], onsets, [-1.0]]).astype(np.float32))

    def to_dict(self) -> dict[str, Any]:
        """All but the text tokenizer, for a model's config."""
        return {
            "frames_per_byte": self.frames_per_byte,
            "ids": [
                self.ids.begin,
                self.ids.speech_offset,
                self.ids.first_voice,
                self.ids.num_voices,
            ],
            "layout": self.layout.to_dict(),
            "spoken_ids": None if self.spoken_ids is None else sorted(self.spoken_ids),
            "voices": list(self.voices),
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any], text_tokenizer: TextTokenizer) -> "Prompter":
        """Read what ``to_dict`` gave."""
        return cls(
            layout=VocabularyLayout.from_dict(body["layout"]),
            ids=InputIds(*body["ids"]),
            voices=tuple(body["voices"]),
            frames_per_byte=body["frames_per_byte"],
            spoken_ids=None if body["spoken_ids"] is None else frozenset(body["spoken_ids"]),
            text_tokenizer=text_tokenizer,
        )
