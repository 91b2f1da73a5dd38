"""Interleaved data: which words are spoken, by whom, and which rows are refused."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from interloom.config.base import Frozen
from interloom.config.text_to_token import SynthesisConfig

FAILED_ROWS_KEPT = 1000  # a gate names no more; so no shard may have more rows

Share = Annotated[float, Field(ge=0, le=1)]


class PoissonSpans(Frozen):
    """P1's span corruption (section 4 of the method).

    Of a document of n words ``floor(speech_ratio * n + u)`` are spoken, u uniform in [0, 1) by the
    document's id. One of fewer than ``1 / speech_ratio`` words stays text.

    Attributes:
        version: Raised when the same document would be cut otherwise.
        speech_ratio: eta, the share of a document's words that are spoken.
        mean_words: lambda, mean of the Poisson length of a span; where characters stand for words,
            as many of them as make so many words.
    """

    kind: Literal["poisson"] = "poisson"
    version: Literal[1] = 1
    speech_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    mean_words: PositiveFloat = 10.0


class TextThenSpeech(Frozen):
    """P2's alternation (section 6 of the method): some text, then half as many spoken words.

    A coin says which comes first. A document of fewer than six words stays text.

    Attributes:
        version: Raised when the same document would be cut otherwise.
        min_text_words: Shortest stretch of text.
        max_text_words: Longest; lengths are uniform.
        max_text_share: No stretch of text is a greater part of its document.
        speech_per_text: Spoken words for each word of the text before them.
    """

    kind: Literal["text_then_speech"] = "text_then_speech"
    version: Literal[1] = 1
    min_text_words: Annotated[int, Field(ge=2)] = 5
    max_text_words: Annotated[int, Field(ge=2)] = 30
    max_text_share: Annotated[float, Field(gt=0, lt=1)] = 0.6
    speech_per_text: Annotated[float, Field(gt=0, le=4)] = 0.5

    @model_validator(mode="after")
    def _lengths_are_in_order(self) -> Self:
        if self.min_text_words > self.max_text_words:
            raise ValueError(
                f"min_text_words must be at most max_text_words = {self.max_text_words}, "
                f"got {self.min_text_words}"
            )
        return self


class FineAlternation(Frozen):
    """N words of text, M spoken, and so on, from a place that the document's id draws.

    A document of fewer than N + M words stays text.

    Attributes:
        version: Raised when the same document would be cut otherwise.
        text_words: N.
        speech_words: M.
    """

    kind: Literal["fine"] = "fine"
    version: Literal[1] = 1
    text_words: PositiveInt = 5
    speech_words: PositiveInt = 5


class SentenceAlternation(Frozen):
    """Every other sentence is spoken; a coin says whether the first is.

    A document of one sentence stays text, and so does a sentence that is longer than a span may be.

    Attributes:
        version: Raised when the same document would be cut otherwise.
    """

    kind: Literal["sentences"] = "sentences"
    version: Literal[1] = 1


SpanPolicy = Annotated[
    PoissonSpans | TextThenSpeech | FineAlternation | SentenceAlternation,
    Field(discriminator="kind"),
]


class QualityLimits(Frozen):
    """When a row is left out, a shard quarantined, and the stage failed.

    A row that breaks a check is left out by name. A shard is quarantined when too many of its rows
    broke one, or when its sums are out of range. The stage fails when too much was left out, or
    when anything is of another tokenizer or vocabulary.

    Attributes:
        max_broken: Highest share of a shard's rows that may be left out singly.
        max_quarantined: Highest share of all rows that may be left out, singly or with their shard.
        ratio_tolerance: How far a shard's share of chosen words may be from the policy's.
        max_refused: Highest share of a shard's spans that may be refused and stay text.
        share_tolerance: How far the speech share of a shard's tokens may be from the one that
            follows from natural speech and the shard's text.
        min_pace: Least codes a word, at the median over a shard's spans, in those of real speech.
        max_pace: Most.
        max_deviation: How far a shard's span lengths may be from Poisson, in standard deviations.
        error_sample: Spans of a shard that are read back by the tokenizer's head.
        max_error_rate: Highest word error rate over them.
        max_word_seconds: A recorded word that lasts longer was not aligned.
    """

    max_broken: Share = 0.1
    max_quarantined: Share = 0.01
    ratio_tolerance: NonNegativeFloat = 0.05
    max_refused: Share = 0.3
    share_tolerance: Share = 0.15
    min_pace: NonNegativeFloat = 0.6
    max_pace: PositiveFloat = 1.6
    max_deviation: PositiveFloat = 6.0
    error_sample: NonNegativeInt = 16
    max_error_rate: NonNegativeFloat = 0.4
    max_word_seconds: PositiveFloat = 4.0


class Decontamination(Frozen):
    """Which documents are left out because evaluation asks for what they hold.

    Compared are words, without case and punctuation, of held-out stories, questions and transcripts
    with those of a document, spoken and written ones alike.

    Attributes:
        ngram_words: A run of so many words that is in both is a match.
        min_words: Evaluation texts shorter than ``ngram_words`` match as wholes; those shorter than
            this never do.
        taught: Groups of tasks that ask for facts which the corpus is there to teach.
    """

    ngram_words: Annotated[int, Field(ge=2)] = 13
    min_words: Annotated[int, Field(ge=2)] = 8
    taught: tuple[str, ...] = ("written", "woven", "spoken")


class InterleavingConfig(Frozen):
    """Which words are spoken, how, and the gate on the rows.

    Attributes:
        policy: Which words are spoken.
        speech: Spans of text corpora are synthesised; or the corpus is transcribed speech with the
            times of its words, and the codes are cut out of it (P2).
        max_span_seconds: No span is longer.
        document_share: Share of the documents that are taken, chosen by their ids.
        max_documents: Stop after so many documents; None takes all.
        documents_per_shard: Documents that are planned, spoken and checked together.
        shard_bytes: A shard ends before its text grows over this.
        quality: Limits of the checks.
        decontamination: What evaluation texts may not be in a row; None leaves everything in.
        synthesis: How spans are spoken.
        rows: Rows that were made before, ``NAME`` or ``NAME@VERSION`` of the catalog, such as those
            that ``interloom readmit`` publishes: they are mixed as they are, and the stage does not
            run. None makes them.
    """

    policy: SpanPolicy = PoissonSpans()
    speech: Literal["synthesised", "recorded"] = "synthesised"
    max_span_seconds: PositiveFloat = 30.0
    document_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_documents: PositiveInt | None = None
    documents_per_shard: Annotated[int, Field(ge=1, le=FAILED_ROWS_KEPT)] = 1000
    shard_bytes: Annotated[int, Field(ge=1, le=64_000_000)] = 4_000_000
    quality: QualityLimits = QualityLimits()
    decontamination: Decontamination | None = Decontamination()
    synthesis: SynthesisConfig = SynthesisConfig()
    rows: str | None = None
