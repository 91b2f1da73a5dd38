"""Which recordings can be used, and how their transcripts are tidied."""

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import SAMPLE_RATE_HZ
from interloom.config.corpora import Script, SpeechLimits
from interloom.core.errors import DataError
from interloom.corpora.recorded import Recorded
from interloom.text.scripts import main_script
from interloom.text.speakable import has_letter

_FULL_SCALE = 0.98  # resampling lets what was cut at 1 ring about it
_CUT_OFF_S = 0.25  # decoders of lossy forms drop some milliseconds


def tidy_transcript(text: str) -> str:
    """Single spaces; lower case if there is no lower-case letter.

    Raises:
        DataError: There is nothing to say.
    """
    tidy = " ".join(text.split())
    if not tidy:
        raise DataError("it has no transcript")
    if not has_letter(tidy):
        raise DataError(f"its transcript {tidy[:40]!r} has neither letter nor digit")
    return tidy if any(character.islower() for character in tidy) else tidy.lower()


def checked_samples(found: Recorded, limits: SpeechLimits) -> NDArray[np.float32]:
    """Decode, within the limits.

    Raises:
        DataError: The recording cannot be used; the message says why.
    """
    stated = found.seconds()
    _check_length(stated, limits)
    samples_S = found.read()
    seconds = len(samples_S) / SAMPLE_RATE_HZ
    if stated - seconds > _CUT_OFF_S:
        raise DataError(f"it is cut off: it should last {stated:.1f} s, but holds {seconds:.1f} s")
    _check_length(seconds, limits)
    levels_S = np.abs(samples_S)
    if (peak := float(levels_S.max())) < limits.silence_peak:
        raise DataError(f"it is silent: its peak is {peak:.1g}, at least {limits.silence_peak:g}")
    clipped = float((levels_S >= _FULL_SCALE).mean())
    if clipped > limits.max_clipped:
        raise DataError(
            f"it is clipped: {clipped:.1%} of its samples are at full scale, at most "
            f"{limits.max_clipped:.1%}; record it with less gain"
        )
    return samples_S


def check_script(text: str, script: Script) -> None:
    """Refuse a transcript in another script than that of the corpus.

    Raises:
        DataError: Most of its letters are of another.
    """
    if script != "any" and (found := main_script(text)) not in {script, ""}:
        raise DataError(
            f"its transcript {text[:40]!r} is written in {found}, expected {script}; "
            "--script takes in another, or any"
        )


def check_rate(text: str, seconds: float, limits: SpeechLimits) -> None:
    """Refuse what nobody can have said in that time.

    Raises:
        DataError: The transcript has too many words.
    """
    if (rate := len(text.split()) / seconds) > limits.max_words_per_second:
        raise DataError(
            f"nobody says {rate:.0f} words a second, at most {limits.max_words_per_second:g}; "
            "is it the transcript of another recording?"
        )


def _check_length(seconds: float, limits: SpeechLimits) -> None:
    """Refuse what is too short or too long.

    Raises:
        DataError: It is.
    """
    if seconds < limits.min_seconds:
        raise DataError(f"it lasts {seconds:.3f} s, at least {limits.min_seconds:g} s")
    if seconds > limits.max_seconds:
        raise DataError(f"it lasts {seconds:.1f} s, at most {limits.max_seconds:g} s")
