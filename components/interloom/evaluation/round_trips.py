"""Tokenizer, text-to-token model and decoder, each judged by what the tokenizer's head reads back.

No judge is needed that is not part of the chain. What it costs: an error of the reading head counts
against every part, so ``tokenizer/wer`` is the floor of the other rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interloom.evaluation.choice import ChosenSet
from interloom.evaluation.distortion import NAME as DISTORTION
from interloom.evaluation.distortion import waveform_distortion
from interloom.evaluation.error_rate import measure_errors
from interloom.evaluation.measures import Findings, Judging, Measure, share_right
from interloom.evaluation.spoken import Codes, Listener, Speaker, Waveform
from interloom.speech_decoder.runtime import SpeechDecoder
from interloom.text_to_token.spans import SpanRequest

_MAX_TRANSCRIPTS = 12


def measure_tokenizer(chosen: ChosenSet, tokenizer: Listener, judging: Judging) -> Findings:
    """Held-out speech, read from its codes: P1's main figure of a tokenizer."""
    codes = [np.array(row["codes"], np.int32) for row in chosen.items]
    texts = [row["text"] for row in chosen.items]
    heard = tokenizer.read(codes)
    wer = measure_errors("tokenizer/wer", (texts, heard), chosen, chosen.items, judging)
    return Findings(
        (wer,),
        (chosen,),
        {"tokenizer": transcripts(texts, heard)},
    )


def measure_text_to_token(
    chosen: ChosenSet, speaker: Speaker, tokenizer: Listener, judging: Judging
) -> Findings:
    """Held-out texts, spoken and read back. A span that was refused counts as not understood."""
    texts = [row["text"] for row in chosen.items]
    spoken = speaker.synthesise(
        [SpanRequest(f"heldout/{row['id']}", row["text"]) for row in chosen.items]
    )
    read = tokenizer.read([result.codes for result in spoken])
    heard = [text if one.accepted else "" for text, one in zip(read, spoken, strict=True)]
    name, rows = "text_to_token/round_trip_wer", chosen.items
    accepted = [one.accepted for one in spoken]
    return Findings(
        (
            measure_errors(name, (texts, heard), chosen, rows, judging),
            share_right("text_to_token/accepted", chosen, rows, accepted, judging),
        ),
        (chosen,),
        {"text_to_token": transcripts(texts, heard)},
    )


@dataclass(frozen=True, slots=True)
class Recording:
    """A held-out utterance with its sound."""

    text: str
    codes: Codes
    speaker: str
    waveform: Waveform


def measure_decoder(
    chosen: ChosenSet,
    recordings: Sequence[Recording],
    decoder: SpeechDecoder,
    tokenizer: Listener,
    judging: Judging,
) -> Findings:
    """Held-out codes made audible, tokenised again and read; their length and distortion.

    Distortion is measured in the recording's own voice where the decoder knows it. ``recordings``
    are those of the chosen rows, in their order.
    """
    decoded = [decoder.decode(one.codes) for one in recordings]
    heard = tokenizer.read(tokenizer.encode(decoded))
    lengths = [len(one.waveform) for one in recordings]
    off = [abs(len(got) - length) for got, length in zip(decoded, lengths, strict=True)]
    distortions = [_distortion(one, decoder) for one in recordings]
    texts = [one.text for one in recordings]
    distorted = judging.ratio(distortions, [1.0] * len(distortions))
    wer = "decoder/round_trip_wer"
    return Findings(
        (
            measure_errors(wer, (texts, heard), chosen, chosen.items, judging),
            Measure("decoder/duration_error", judging.ratio(off, lengths)),
            Measure(f"decoder/{DISTORTION}", distorted),
        ),
        (chosen,),
        {"decoder": transcripts(texts, heard)},
    )


def _distortion(recording: Recording, decoder: SpeechDecoder) -> float:
    """MCD of the recording's codes, in its own voice if the decoder learnt it."""
    voice = recording.speaker if recording.speaker in decoder.spec.speakers else None
    return waveform_distortion(decoder.decode(recording.codes, voice=voice), recording.waveform)


def transcripts(texts: Sequence[str], heard: Sequence[str]) -> list[dict[str, str]]:
    """The first items of a set as they should be and as they were read."""
    pairs = zip(texts[:_MAX_TRANSCRIPTS], heard[:_MAX_TRANSCRIPTS], strict=True)
    return [{"text": text, "heard": read} for text, read in pairs]
