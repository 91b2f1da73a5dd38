"""Words to codes by CTC, with what speaks against it.

Shapes: T places of the CTC head, C codes, S samples, V text ids.

An aligner always answers: with the wrong transcript it stretches one word over a minute. So every
word comes with the probability of its labels where they were found, and with a limit to how long
and how quiet a word can be; what breaks a limit is named and not used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from interloom.config.speech_tokenizer import SAMPLE_RATE_HZ
from interloom.core.spans import Span
from interloom.speech_tokenizer.reading import LogProbs, ctc_align

MIN_CONFIDENCE = 0.15
MAX_WORD_S, MAX_LETTER_S = 0.5, 0.3  # a word may last this long, and so much more a letter
_QUIET = 0.03  # of the loudest code's level: 30 dB under it


@dataclass(frozen=True, slots=True)
class AlignedWord:
    """A word and its place.

    Attributes:
        word: As written.
        span: Samples, in order and disjoint within an utterance.
        confidence: Geometric mean of the probability of its labels at its places.
        refusal: Why the place cannot be right; empty if it can.
        parts: Samples of each of its labels, the text's BPE tokens; they share out the span.
    """

    word: str
    span: Span
    confidence: float
    refusal: str
    parts: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """What words are aligned to.

    Attributes:
        log_probs_TV: Of labels and blank, place by place.
        is_loud_T: Which places are not silence; all where the sound is not known.
        samples_per_place: Samples of a place, at 16 kHz.
    """

    log_probs_TV: LogProbs
    is_loud_T: NDArray[np.bool_]
    samples_per_place: int


def align_words(
    heard: Heard, words: Sequence[str], labels: Sequence[Sequence[int]], *, blank: int
) -> list[AlignedWord]:
    """The most likely place of each word.

    The head may fall silent before a word has ended; the word then lasts as long as it is loud.

    Args:
        heard: One utterance.
        words: At least one, in order.
        labels: Of each word, at least one.
        blank: The id of the blank.

    Raises:
        DataError: There are fewer places than the labels need.
    """
    flat = [label for one in labels for label in one]
    places = ctc_align(heard.log_probs_TV, flat, blank=blank)
    edges = np.cumsum([0, *(len(one) for one in labels)])
    spans = [Span(places[a].start, places[b - 1].stop) for a, b in pairwise(edges)]
    nexts = [*(span.start for span in spans[1:]), len(heard.log_probs_TV)]
    found = list[AlignedWord]()
    for index, (word, span) in enumerate(zip(words, spans, strict=True)):
        own = range(edges[index], edges[index + 1])
        scores = [heard.log_probs_TV[_places(places[at]), flat[at]] for at in own]
        confidence = float(np.exp(np.concatenate(scores).mean()))
        quiet = np.flatnonzero(~heard.is_loud_T[span.stop : nexts[index]])
        stop = span.stop + int(quiet[0]) if quiet.size else nexts[index]
        full = Span(span.start, stop)
        refusal = _refusal(word, full, confidence, heard)
        parts = pairwise([*(places[at].start for at in own), stop])
        held = tuple(_in_samples(Span(*part), heard) for part in parts)
        found.append(AlignedWord(word, _in_samples(full, heard), confidence, refusal, held))
    return found


def loud_codes(waveform_S: NDArray[np.float32], samples_per_code: int) -> NDArray[np.bool_]:
    """Which codes of an utterance are within 30 dB of its loudest; (C,)."""
    num_codes = -(-len(waveform_S) // samples_per_code)
    padded = np.zeros(num_codes * samples_per_code, np.float64)
    padded[: len(waveform_S)] = waveform_S
    level = np.sqrt(np.square(padded.reshape(num_codes, samples_per_code)).mean(1))
    is_loud: NDArray[np.bool_] = level > _QUIET * level.max(initial=0.0)
    return is_loud


def _places(span: Span) -> slice:
    return slice(span.start, span.stop)


def _in_samples(span: Span, heard: Heard) -> Span:
    return Span(span.start * heard.samples_per_place, span.stop * heard.samples_per_place)


def _refusal(word: str, span: Span, confidence: float, heard: Heard) -> str:
    """Why a word cannot be where it was found; empty if it can."""
    longest_s = MAX_WORD_S + MAX_LETTER_S * len(word)
    lasts_s = span.length * heard.samples_per_place / SAMPLE_RATE_HZ
    if confidence < MIN_CONFIDENCE:
        return f"confidence {confidence:.2f} is under {MIN_CONFIDENCE}"
    if lasts_s > longest_s:
        return f"it would last {lasts_s:.1f} s, and {len(word)} letters last {longest_s:.1f} s"
    if not heard.is_loud_T[_places(span)].any():
        return "it would be said in silence"
    return ""
