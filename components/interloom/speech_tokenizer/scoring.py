"""How well the codes keep what was said, and how many of them are in use."""

from collections.abc import Iterator, Sequence
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import read_audio
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.tables import Split, batched, read_table
from interloom.ports.catalog import Metric
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore
from interloom.speech_tokenizer.features import TABLE
from interloom.speech_tokenizer.runtime import SpeechTokenizer
from interloom.text.normalise import normalise

_ROWS = 64


def held_out_metrics(
    tokenizer: SpeechTokenizer, speech: ArtifactRef, *, store: ArtifactStore, progress: Progress
) -> tuple[Metric, ...]:
    """Word error rate through the codes on ``heldout``, and how many words were said.

    Raises:
        DataError: No held-out utterance has a text.
    """
    said: list[str] = []
    read: list[str] = []
    for rows in batched(_rows(store, speech, "heldout"), _ROWS):
        codes = tokenizer.encode([read_audio(row["audio"]) for row in rows])
        said += [row["text"] for row in rows]
        read += tokenizer.read(codes)
        progress.update(len(said), None, "held-out utterances")
    if not said:
        raise DataError(f"{speech} has no held-out utterance with a text; nothing can be measured")
    return (
        Metric("tokenizer/wer", word_error_rate(said, read)),
        Metric("tokenizer/wer/n", sum(len(normalise(text).split()) for text in said)),
    )


def codebook_metrics(counts_K: NDArray[np.int64], *, prefix: str) -> tuple[Metric, ...]:
    """Share of the codes that occur at all, and the perplexity of their use."""
    return (
        Metric(f"{prefix}/codes_used", float((counts_K > 0).mean())),
        Metric(f"{prefix}/perplexity", perplexity(counts_K)),
    )


def word_error_rate(said: Sequence[str], read: Sequence[str]) -> float:
    """Word error rate of normalised texts; texts without a word are left out."""
    pairs = [(normalise(one), normalise(other)) for one, other in zip(said, read, strict=True)]
    kept = [pair for pair in pairs if pair[0]]
    if not kept:
        raise DataError("no reference has a word; a word error rate needs some")
    return float(jiwer.wer([pair[0] for pair in kept], [pair[1] for pair in kept]))


def perplexity(counts_K: NDArray[np.int64]) -> float:
    """The exponential of the entropy of the codes' use: K if all are used alike."""
    share = counts_K[counts_K > 0] / max(1, counts_K.sum())
    return float(np.exp(-(share * np.log(share)).sum()))


def _rows(store: ArtifactStore, speech: ArtifactRef, split: Split) -> Iterator[dict[str, Any]]:
    """The transcribed rows of a split."""
    columns = ["text", "audio"]
    for row in read_table(store, speech, TABLE, split=split, columns=columns):
        if row["text"]:
            yield row
