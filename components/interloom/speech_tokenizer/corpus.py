"""The codes of a whole corpus, streamed from table to table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import read_audio
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.tables import SPEECH_TOKENS, batched, read_table, write_table
from interloom.ports.catalog import Metric
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.speech_tokenizer.encoding import Codes
from interloom.speech_tokenizer.features import TABLE
from interloom.speech_tokenizer.runtime import SpeechTokenizer, load_speech_tokenizer
from interloom.speech_tokenizer.scoring import codebook_metrics

TOKENS_TABLE = "tokens"
PRECISION = "fp32, each utterance alone in its length bucket, one thread"

_ROWS = 64


@dataclass(frozen=True, slots=True)
class TokenizedCorpus:
    """The stored codes and how they are spread."""

    ref: ArtifactRef
    metrics: tuple[Metric, ...]


def tokenize_corpus(
    speech: ArtifactRef, tokenizer_ref: ArtifactRef, *, store: ArtifactStore, work: Workspace
) -> TokenizedCorpus:
    """Write the codes of every utterance, in the corpus' order.

    Raises:
        DataError: Audio cannot be read, or a word ends after its utterance.
    """
    tokenizer = load_speech_tokenizer(store, tokenizer_ref)
    counts = np.zeros(tokenizer.codebook_size, np.int64)
    total = store.manifest(speech).count("rows")

    def rows() -> Iterator[Mapping[str, Any]]:
        done = 0
        for batch in batched(read_table(store, speech, TABLE), _ROWS):
            encoded = tokenizer.encode([read_audio(row["audio"]) for row in batch])
            for row, codes in zip(batch, encoded, strict=True):
                yield _token_row(row, codes, tokenizer, counts)
            done += len(batch)
            work.progress.update(done, total, "utterances")

    with store.draft(ArtifactKind.SPEECH_TOKENS) as draft:
        write_table(draft, TOKENS_TABLE, SPEECH_TOKENS, rows())
        ref = draft.commit(
            parents=(speech, tokenizer_ref),
            licences=store.manifest(speech).licences,
            facts={
                "codebook_size": tokenizer.codebook_size,
                "frame_rate_hz": str(tokenizer.clock.frame_rate_hz),
                "made_by": "encoder",
                "precision": PRECISION,
                "samples_per_token": tokenizer.samples_per_token,
                "tokenizer": tokenizer_ref.id,
            },
        )
    return TokenizedCorpus(ref, codebook_metrics(counts, prefix="tokens"))


def _token_row(
    row: Mapping[str, Any], codes: Codes, tokenizer: SpeechTokenizer, counts_K: NDArray[np.int64]
) -> Mapping[str, Any]:
    """The utterance's row with codes for audio and words in codes; adds to the counts."""
    counts_K += np.bincount(codes, minlength=len(counts_K))
    kept = {name: row[name] for name in SPEECH_TOKENS.names if name not in {"codes", "words"}}
    words = _words_in_codes(row["id"], row["words"] or (), len(codes), tokenizer)
    return {**kept, "codes": codes, "words": words}


def _words_in_codes(
    utterance_id: str,
    words: Sequence[Mapping[str, Any]],
    num_codes: int,
    tokenizer: SpeechTokenizer,
) -> list[dict[str, Any]]:
    """Spans in samples as the shortest spans of codes that cover them."""
    spans = [tokenizer.clock.span(word["start"], word["stop"]) for word in words]
    if spans and spans[-1].stop > num_codes:
        raise DataError(
            f"utterance {utterance_id!r}: the words end at code {spans[-1].stop}, but its audio "
            f"gives {num_codes} codes; was it trimmed or resampled after aligning?"
        )
    return [
        {"word": word["word"], "start": span.start, "stop": span.stop}
        for word, span in zip(words, spans, strict=True)
    ]
