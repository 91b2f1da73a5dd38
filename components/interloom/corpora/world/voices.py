"""Speech of the starter world: espeak-ng, in this process, through ctypes.

The library keeps state from one text to the next (flutter, phase, noise), which starting it anew
does not reset, so that what it says would depend on what it said before. It is therefore unloaded
after each utterance: the same text, voice, rate and pitch give the same samples, in any order,
process and thread.
"""

import ctypes
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import SAMPLE_RATE_HZ, resample
from interloom.core.errors import DataError, MissingError

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the callback gets samples in the calling thread
_UTF8 = 1
_RATE, _VOLUME, _PITCH = 1, 2, 3
_WORD_EVENT, _END_EVENT = 1, 0
_SILENCE = 2e-3
_REST = SAMPLE_RATE_HZ // 10  # silence before and after
_SENTENCE_START = re.compile(
    r"(?<=[.?] )[a-z]"
)  # it rests between sentences if the next is capital


@dataclass(frozen=True, slots=True)
class Voice:
    """How a speaker sounds: an espeak-ng voice (with variant), words a minute and pitch (0-99)."""

    name: str
    rate: int
    pitch: int


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word and the samples ``[start, stop)`` at 16 kHz in which it is said."""

    word: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Spoken:
    """What was said: samples of shape (S,) at 16 kHz, and its words in order."""

    samples_S: NDArray[np.float32]
    words: tuple[SpokenWord, ...]


class _EventId(ctypes.Union):
    _fields_ = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    ]


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """Speaks English text with a library of its own, so that several may speak in threads.

    The library is a private copy of the shared object, loaded for each utterance and unloaded
    after it. Close it when done.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ModuleNotFoundError as error:
            raise MissingError(
                "speaking the starter world needs espeak-ng; next: pip install 'interloom[starter]'"
            ) from error
        self._folder = tempfile.TemporaryDirectory(prefix="interloom-espeak-")
        original = Path(espeakng_loader.get_library_path())
        self._path = Path(shutil.copy(original, Path(self._folder.name) / original.name))
        self._data_path = str(espeakng_loader.get_data_path()).encode()
        self._samples: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, int]] = []  # position in the text from 1, sample
        self._callback = _CALLBACK(self._receive)

    def close(self) -> None:
        """Remove the copy of the library."""
        self._folder.cleanup()

    def say(self, text: str, voice: Voice) -> Spoken:
        """Speak ``text``.

        Args:
            text: ASCII words separated by single spaces, with simple punctuation.
            voice: How.

        Returns:
            The samples, and each word's place in them.

        Raises:
            DataError: espeak-ng does not know the voice, or says nothing for this text.
        """
        self._samples, self._events = [], []
        library = ctypes.CDLL(str(self._path))
        try:
            rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, self._data_path, 0)
            self._synthesise(library, text, voice)
        finally:
            library.espeak_Terminate()
            _unload(library)
        if not self._samples or not self._events:
            raise DataError(f"espeak-ng says nothing for {text!r}")
        native = np.concatenate(self._samples).astype(np.float32) / 32768.0
        said_S = resample(native, from_hz=rate_hz, to_hz=SAMPLE_RATE_HZ)
        samples_S = np.pad(said_S, _REST)
        marks = {at: _REST + sample * SAMPLE_RATE_HZ // rate_hz for at, sample in self._events}
        return Spoken(samples_S, place_words(text, marks, samples_S))

    def _synthesise(self, library: ctypes.CDLL, text: str, voice: Voice) -> None:
        """Set the voice and let the callback collect."""
        library.espeak_SetSynthCallback(self._callback)
        library.espeak_ng_SetRandSeed(1)
        if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise DataError(f"espeak-ng has no voice {voice.name!r}")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_VOLUME, 90)):
            library.espeak_SetParameter(parameter, value, 0)
        data = _SENTENCE_START.sub(lambda start: start.group().upper(), text).encode("ascii")
        library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        """The library's callback: copy, and go on."""
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        index = 0
        while events[index].type != _END_EVENT:
            if events[index].type == _WORD_EVENT:
                self._events.append((events[index].text_position, events[index].sample))
            index += 1
        return 0


def _unload(library: ctypes.CDLL) -> None:
    """Unload a library and with it all its state."""
    close = ctypes.CDLL(None).dlclose
    close.argtypes = [ctypes.c_void_p]
    close(library._handle)  # noqa: SLF001 - ctypes names it in no other way


def place_words(
    text: str, marks: Mapping[int, int], samples_S: NDArray[np.float32]
) -> tuple[SpokenWord, ...]:
    """The place of each word in the samples.

    Args:
        text: Words separated by spaces.
        marks: Samples where words begin, by the position that espeak-ng gives: that of the word's
            first letter, counted from 1, or of the space before it. Words that it runs together
            have one mark; they share its stretch by their letters.
        samples_S: What was said; a word ends where it falls silent.
    """
    stretches: list[tuple[int, list[str]]] = []
    for match in re.finditer(r"\S+", text):
        mark = marks.get(match.start() + 1, marks.get(match.start()))
        if mark is not None or not stretches:
            stretches.append((mark or 0, []))
        stretches[-1][1].append(match.group().strip(".,?"))
    stops = [start for start, _ in stretches[1:]] + [len(samples_S)]
    placed: list[SpokenWord] = []
    for (start, run), stop in zip(stretches, stops, strict=True):
        placed.extend(_share(run, start, _fall_silent(samples_S, start, stop)))
    return tuple(placed)


def _fall_silent(samples_S: NDArray[np.float32], start: int, stop: int) -> int:
    """The end of what is loud between ``start`` and ``stop``."""
    loud = np.flatnonzero(np.abs(samples_S[start:stop]) > _SILENCE)
    return start + int(loud[-1]) + 1 if len(loud) else stop


def _share(words: Sequence[str], start: int, stop: int) -> list[SpokenWord]:
    """Words one after the other, as long as they have letters."""
    letters = list(accumulate((len(word) for word in words), initial=0))
    edges = [start + (stop - start) * done // letters[-1] for done in letters]
    return [
        SpokenWord(word, begin, end)
        for word, (begin, end) in zip(words, pairwise(edges), strict=True)
    ]
