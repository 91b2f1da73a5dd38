"""How well a speech tokenizer's codes keep what was said: P1's Table 1, and what it leaves out.

Every set of held-out speech is encoded and read back by the tokenizer's own head: as it is, at
other speeds, under noise, by corpus and by voices that training never heard.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import read_audio, resample
from interloom.evaluation.choice import ChosenSet
from interloom.evaluation.error_rate import error_rate, word_errors
from interloom.evaluation.intervals import Estimate, wilson
from interloom.evaluation.measures import Findings, Judging, Measure
from interloom.speech_tokenizer.runtime import SpeechTokenizer
from interloom.text.normalise import normalise

SPEEDS = (0.8, 0.9, 1.1, 1.25)
NOISES_DB = (20, 10, 5)

Waveform = NDArray[np.float32]
Codes = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out speech and which of it is by known voices.

    Attributes:
        chosen: Rows with ``id``, ``text``, ``speaker``, ``source`` and ``words``.
        audio: The recording of each, by its id.
        known_speakers: Whom training heard.
    """

    chosen: ChosenSet
    audio: Mapping[str, bytes]
    known_speakers: frozenset[str]

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The utterances."""
        return self.chosen.items


def measure_codes(held_out: HeldOut, tokenizer: SpeechTokenizer, judging: Judging) -> Findings:
    """All figures of a tokenizer.

    Raises:
        DataError: The audio of a row cannot be read.
    """
    waveforms = [read_audio(held_out.audio[row["id"]]) for row in held_out.rows]
    texts = [str(row["text"]) for row in held_out.rows]
    codes = tokenizer.encode(waveforms)
    heard = tokenizer.read(codes)
    measures = [
        *_rates("tokenizer", texts, heard, judging),
        *_by_group(held_out, texts, heard, judging),
        *_under_conditions(waveforms, texts, tokenizer, judging),
        *_use_of_codes(codes, tokenizer, judging),
        *_alignment(held_out.rows, waveforms, codes, tokenizer, judging),
    ]
    transcripts = [
        {"text": text, "heard": read} for text, read in zip(texts[:20], heard[:20], strict=True)
    ]
    return Findings(tuple(measures), (held_out.chosen,), {"transcripts": transcripts})


def at_speed(waveform_S: Waveform, speed: float) -> Waveform:
    """Played faster or slower, as a tape is: pitch moves with it."""
    return resample(waveform_S, from_hz=round(16_000 * speed), to_hz=16_000)


def with_noise(waveform_S: Waveform, *, snr_db: float, seed: int) -> Waveform:
    """White noise added at a ratio of powers; the same seed adds the same noise."""
    rng = np.random.Generator(np.random.Philox(seed))
    noise = rng.standard_normal(len(waveform_S))
    power = float(np.square(waveform_S, dtype=np.float64).mean()) if len(waveform_S) else 0.0
    loud = np.sqrt(power / 10 ** (snr_db / 10))
    noisy: Waveform = (waveform_S + loud * noise).astype(np.float32)
    return noisy


def character_error_rate(
    references: Sequence[str], hypotheses: Sequence[str], judging: Judging
) -> Estimate:
    """Edits of characters, white space left out, with a bootstrap interval over utterances."""
    counted = [
        word_errors(" ".join(normalise(one).replace(" ", "")), _spaced(other))
        for one, other in zip(references, hypotheses, strict=True)
    ]
    edits = [one.num_edits for one in counted]
    return judging.ratio(edits, [one.num_words for one in counted])


def _spaced(text: str) -> str:
    """Each character as a word."""
    return " ".join(normalise(text).replace(" ", ""))


def _rates(
    name: str, texts: Sequence[str], heard: Sequence[str], judging: Judging
) -> Iterator[Measure]:
    """Word and character error rates of one set."""
    yield Measure(f"{name}/wer", error_rate(texts, heard, judging))
    yield Measure(f"{name}/cer", character_error_rate(texts, heard, judging))


def _by_group(
    held_out: HeldOut, texts: Sequence[str], heard: Sequence[str], judging: Judging
) -> Iterator[Measure]:
    """Rates of each corpus, where there are several, and of unseen voices."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(held_out.rows):
        groups.setdefault(f"tokenizer/source/{row['source']}", []).append(place)
    if len(groups) < 2:
        groups = {}
    unseen = [
        place
        for place, row in enumerate(held_out.rows)
        if row["speaker"] not in held_out.known_speakers
    ]
    for name, places in {**groups, "tokenizer/unseen_voices": unseen}.items():
        chosen = [texts[place] for place in places], [heard[place] for place in places]
        yield from _rates(name, *chosen, judging)


def _under_conditions(
    waveforms: Sequence[Waveform],
    texts: Sequence[str],
    tokenizer: SpeechTokenizer,
    judging: Judging,
) -> Iterator[Measure]:
    """Word error rates at other speeds and under noise."""
    changed: dict[str, list[Waveform]] = {
        f"tokenizer/speed_{speed:g}": [at_speed(one, speed) for one in waveforms]
        for speed in SPEEDS
    }
    for snr_db in NOISES_DB:
        changed[f"tokenizer/noise_{snr_db}db"] = [
            with_noise(one, snr_db=snr_db, seed=place) for place, one in enumerate(waveforms)
        ]
    for name, made in changed.items():
        heard = tokenizer.read(tokenizer.encode(made))
        yield Measure(f"{name}/wer", error_rate(texts, heard, judging))


def _use_of_codes(
    codes: Sequence[Codes], tokenizer: SpeechTokenizer, judging: Judging
) -> Iterator[Measure]:
    """Share of the codebook, perplexity, bits a second and repetition."""
    size, rate_hz = tokenizer.codebook_size, float(tokenizer.clock.frame_rate_hz)
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *codes]), minlength=size)
    share = counts[counts > 0] / max(1, counts.sum())
    entropy_bits = float(-(share * np.log2(share)).sum())
    yield Measure(
        "tokenizer/codes_used", wilson(int((counts > 0).sum()), size, judging.config.confidence)
    )
    for name, value in {
        "perplexity": 2.0**entropy_bits,
        "bits_per_s": rate_hz * float(np.log2(size)),
        "entropy_bits_per_s": rate_hz * entropy_bits,
    }.items():
        yield Measure(f"tokenizer/{name}", Estimate(value, value, value, int(counts.sum())))
    repeated = sum(int((one[1:] == one[:-1]).sum()) for one in codes)
    pairs = sum(max(0, len(one) - 1) for one in codes)
    yield Measure("tokenizer/repeated", wilson(repeated, pairs, judging.config.confidence))


def _alignment(
    rows: Sequence[Mapping[str, Any]],
    waveforms: Sequence[Waveform],
    codes: Sequence[Codes],
    tokenizer: SpeechTokenizer,
    judging: Judging,
) -> Iterator[Measure]:
    """Errors of word boundaries in milliseconds, where the corpus knows them."""
    errors_ms, num_accepted, num_words = list[float](), 0, 0
    for row, waveform, found in zip(rows, waveforms, codes, strict=True):
        known = row["words"] or ()
        for word, aligned in zip(
            known, tokenizer.align(found, [one["word"] for one in known], waveform), strict=True
        ):
            num_words += 1
            if not aligned.refusal:
                num_accepted += 1
                edges = aligned.span.start, aligned.span.stop
                errors_ms += [
                    abs(edge - word[name]) / 16
                    for edge, name in zip(edges, ("start", "stop"), strict=True)
                ]
    if not num_words:
        return
    yield Measure(
        "tokenizer/aligned_words", wilson(num_accepted, num_words, judging.config.confidence)
    )
    if errors_ms:
        low, middle, high = (float(np.percentile(errors_ms, at)) for at in (2.5, 50, 97.5))
        worst = max(errors_ms)
        count = len(errors_ms)
        yield Measure("tokenizer/boundary_median_ms", Estimate(middle, low, high, count))
        yield Measure("tokenizer/boundary_worst_ms", Estimate(worst, worst, worst, count))
