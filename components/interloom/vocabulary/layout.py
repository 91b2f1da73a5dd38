"""Where each kind of token lives in the joint id space.

Text ids keep their place, so that a text model's embedding rows stay valid; markers follow; speech
codes come last, so that a larger codebook moves nothing, and so do units of several codes. Whoever
stores joint ids stores the layout's digest beside them and refuses another one.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.core.artifacts import canonical_json
from interloom.core.errors import DataError
from interloom.vocabulary.units import SpeechUnits

Ids = NDArray[np.int32]


class Marker(StrEnum):
    """Tokens that are neither text nor speech, in the order of their ids."""

    PAD = "<|pad|>"
    DOCUMENT_END = "<|endoftext|>"
    AUDIO_BEGIN = "<|begin_of_audio|>"
    AUDIO_END = "<|end_of_audio|>"
    ASR = "<|transcribe|>"
    TTS = "<|speak|>"
    SYSTEM = "<|system|>"
    USER = "<|user|>"
    ASSISTANT = "<|assistant|>"
    SPEECH_ONLY = "<|speech_to_speech|>"
    TEXT_GUIDED = "<|streaming_transcription|>"


_OFFSET = {marker: index for index, marker in enumerate(Marker)}


@dataclass(frozen=True, slots=True)
class VocabularyLayout:
    """The joint id space of one text tokenizer and one codebook.

    Attributes:
        text_vocab_size: Ids of the text tokenizer, 0 up to here.
        codebook_size: Number of speech codes.
        text_tokenizer: Artifact id of the text tokenizer.
        tokenizer: Artifact id of the speech tokenizer that gives the codes.
        units: What stands for codes that follow each other; None if each has an id of its own.
    """

    text_vocab_size: int
    codebook_size: int
    text_tokenizer: str
    tokenizer: str
    units: SpeechUnits | None = None

    @property
    def size(self) -> int:
        """V: number of ids."""
        return self.speech_offset + (self.units.size if self.units else self.codebook_size)

    @property
    def plain(self) -> "VocabularyLayout":
        """The same without units of several codes: what speech is kept and exchanged in."""
        return replace(self, units=None)

    @property
    def speech_offset(self) -> int:
        """Id of speech code 0."""
        return self.text_vocab_size + len(Marker)

    @property
    def digest(self) -> str:
        """Stored with every artifact of joint ids."""
        return hashlib.sha256(canonical_json(self.to_dict())).hexdigest()

    def marker(self, marker: Marker) -> int:
        """The id of a marker."""
        return self.text_vocab_size + _OFFSET[marker]

    def speech_ids(self, codes: NDArray[np.integer[Any]]) -> Ids:
        """Joint ids of speech codes that are one recording.

        Raises:
            DataError: A code is outside the codebook.
        """
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise DataError(
                f"speech codes must lie in [0, {self.codebook_size}), got "
                f"[{int(codes.min())}, {int(codes.max())}]; was another tokenizer used?"
            )
        units = self.units.units(codes) if self.units else codes.astype(np.int32)
        return units + np.int32(self.speech_offset)

    def codes(self, ids: NDArray[np.integer[Any]]) -> Ids:
        """Speech codes of joint ids that are all speech."""
        units = (ids - self.speech_offset).astype(np.int32)
        return self.units.codes(units) if self.units else units

    def from_plain(self, ids: Ids) -> Ids:
        """Ids of the plain layout in this one; each run of speech is a recording."""
        if self.units is None or not ids.size:
            return ids
        is_speech = self.is_speech(ids)
        runs = np.split(ids, np.flatnonzero(is_speech[1:] != is_speech[:-1]) + 1)
        return np.concatenate(
            [
                self.speech_ids(run - self.speech_offset) if self.is_speech(run[0]) else run
                for run in runs
            ]
        )

    def num_plain(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """How many ids of the plain layout each of these stands for."""
        counts = np.ones(ids.shape, np.int64)
        if self.units is not None:
            is_speech = self.is_speech(ids)
            counts[is_speech] = self.units.lengths[ids[is_speech] - self.speech_offset]
        return counts

    def is_speech(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which ids are speech codes."""
        return ids >= self.speech_offset

    def is_text(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which ids are text."""
        return ids < self.text_vocab_size

    def wrap_audio(self, codes: NDArray[np.integer[Any]]) -> Ids:
        """``<|begin_of_audio|> codes <|end_of_audio|>`` as joint ids."""
        begin, end = self.marker(Marker.AUDIO_BEGIN), self.marker(Marker.AUDIO_END)
        return np.concatenate(
            [np.array([begin], np.int32), self.speech_ids(codes), np.array([end], np.int32)]
        )

    def to_dict(self) -> dict[str, Any]:
        """For a model's config or a manifest's facts."""
        units = {"units": [list(pair) for pair in self.units.merges]} if self.units else {}
        return units | {
            "codebook_size": self.codebook_size,
            "markers": [marker.value for marker in Marker],
            "text_tokenizer": self.text_tokenizer,
            "text_vocab_size": self.text_vocab_size,
            "tokenizer": self.tokenizer,
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> "VocabularyLayout":
        """Read what ``to_dict`` gave.

        Raises:
            DataError: It names other markers than this version has.
        """
        if body["markers"] != [marker.value for marker in Marker]:
            raise DataError(
                f"the layout has markers {body['markers']}, this version has {list(Marker)}"
            )
        merges = tuple((left, right) for left, right in body.get("units", ()))
        return cls(
            text_vocab_size=body["text_vocab_size"],
            codebook_size=body["codebook_size"],
            text_tokenizer=body["text_tokenizer"],
            tokenizer=body["tokenizer"],
            units=SpeechUnits(body["codebook_size"], merges) if merges else None,
        )

    def require(self, digest: str, *, holder: str) -> None:
        """Refuse ids made under another layout.

        Raises:
            DataError: ``digest`` is not this layout's.
        """
        if digest != self.digest:
            raise DataError(
                f"{holder} was made with vocabulary {digest[:12]}, this model has "
                f"{self.digest[:12]}; their ids do not mean the same: remake one of the two"
            )
