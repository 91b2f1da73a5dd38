"""Synthetic interleaved data: which words are spoken, how many, and which rows are refused."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from interloom.config.base import Frozen
from interloom.config.text_to_token import SynthesisConfig

FAILED_ROWS_KEPT = 1000  # a gate names no more; so no shard may have more rows


class InterleavingConfig(Frozen):
    """P1's span corruption (section 4 of the method), and the gate on its rows.

    Attributes:
        speech_ratio: eta, share of a document's words that are spoken.
        mean_span_words: lambda, mean of the Poisson length of a span.
        max_span_seconds: No span is longer.
        document_share: Share of the documents that are taken, chosen by their ids.
        max_documents: Stop after so many documents; None takes all.
        documents_per_shard: Documents that are planned, spoken and checked together.
        max_quarantined: Highest share of rows that may fail a check and be left out; above it the
            stage fails.
        ratio_tolerance: How far a shard's share of chosen words may be from ``speech_ratio``.
        max_refused: Highest share of a shard's spans that synthesis may refuse and leave as text.
        synthesis: How spans are spoken.
    """

    speech_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    mean_span_words: PositiveFloat = 10.0
    max_span_seconds: PositiveFloat = 30.0
    document_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_documents: PositiveInt | None = None
    documents_per_shard: Annotated[int, Field(ge=1, le=FAILED_ROWS_KEPT)] = 1000
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.01
    ratio_tolerance: NonNegativeFloat = 0.05
    max_refused: Annotated[float, Field(ge=0, le=1)] = 0.3
    synthesis: SynthesisConfig = SynthesisConfig()
