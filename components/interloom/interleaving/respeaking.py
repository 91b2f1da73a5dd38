"""Speak one span of an interleaved row again, alone, as its provenance says it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interloom.config.text_to_token import SynthesisConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError, MissingError
from interloom.corpora.interleaved import SPOKEN, find_row
from interloom.ports.store import ArtifactStore
from interloom.text_to_token.spans import Codes, SpanRequest, SpanResult
from interloom.vocabulary.layout import VocabularyLayout


@dataclass(frozen=True, slots=True)
class KeptSpan:
    """A span of a row.

    Attributes:
        row: Its row, with where it came from.
        span: One entry of the row's ``spans``.
        codes: Those that stand in the row; none if it stayed text.
        synthesis: How spans of this data were spoken.
    """

    row: Mapping[str, Any]
    span: Mapping[str, Any]
    codes: Codes
    synthesis: SynthesisConfig

    @property
    def text(self) -> str:
        """What it says."""
        data: bytes = self.row["text"].encode()
        return data[self.span["byte_start"] : self.span["byte_stop"]].decode().strip()

    @property
    def model(self) -> ArtifactRef | None:
        """The text-to-token model that spoke it; None for recorded speech."""
        kind, _, number = self.row["made_by"].partition(":")
        known = kind == ArtifactKind.TEXT_TO_TOKEN_MODEL
        return ArtifactRef(ArtifactKind.TEXT_TO_TOKEN_MODEL, number) if known else None

    @property
    def tokenizer(self) -> ArtifactRef:
        """The speech tokenizer whose codes it has."""
        return ArtifactRef(ArtifactKind.TOKENIZER_MODEL, self.row["tokenizer"])


def find_span(store: ArtifactStore, ref: ArtifactRef, row_id: str, number: int | None) -> KeptSpan:
    """A span of a row, counted from 0; the first that is spoken if no number is given.

    Raises:
        MissingError: There is no such row, or it has no such span.
    """
    row, facts = find_row(store, ref, "interleaved", row_id), store.manifest(ref).facts
    spans: Sequence[Mapping[str, Any]] = row["spans"]
    if number is None:
        spoken = (at for at, span in enumerate(spans) if span["outcome"] == SPOKEN)
        number = next(spoken, 0)
    if not 0 <= number < len(spans):
        raise MissingError(f"row {row_id!r} has {len(spans)} spans, numbered from 0; got {number}")
    layout, span = VocabularyLayout.from_dict(facts["layout"]), spans[number]
    ids = np.array(row["ids"][span["id_start"] : span["id_stop"]], np.int64)
    return KeptSpan(
        row, span, layout.codes(ids[1:-1]), SynthesisConfig.model_validate(facts["synthesis"])
    )


def respeak(store: ArtifactStore, kept: KeptSpan) -> SpanResult:
    """Synthesise the span alone: same model, settings, seed and id, and so the same codes.

    Raises:
        DataError: It was cut from a recording, which cannot be made again.
    """
    from interloom.speech_tokenizer.runtime import load_speech_tokenizer
    from interloom.text_to_token.runtime import load_text_to_token, need_tokenizer

    if kept.model is None:
        raise DataError(
            f"row {kept.row['id']!r} was made by {kept.row['made_by'][:24]}, not synthesised: its "
            "codes are those of the recording"
        )
    judge = None
    if kept.synthesis.judged_share:
        judge = load_speech_tokenizer(store, kept.tokenizer).read
    speaker = load_text_to_token(
        store, kept.model, config=kept.synthesis, seed=kept.row["seed"], judge=judge
    )
    need_tokenizer(speaker, kept.model, kept.tokenizer)
    [result] = speaker.synthesise([SpanRequest(kept.span["span_id"], kept.text)])
    return result
