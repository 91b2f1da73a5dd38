"""Put together what an interleaved corpus is made with, in whatever process makes it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.parquet as pq

from interloom.config.interleaving import (
    FineAlternation,
    InterleavingConfig,
    PoissonSpans,
    SpanPolicy,
)
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.core.spans import FrameClock
from interloom.corpora.tables import read_table
from interloom.interleaving.decontamination import Contamination
from interloom.interleaving.making import UnitMaker
from interloom.interleaving.policies import Policy, make_policy
from interloom.interleaving.speaking import Judge, Recorded, SpanSource, Synthesised
from interloom.interleaving.units import Corpus, Taking
from interloom.interleaving.weaving import Provenance, Weaver
from interloom.ports.store import ArtifactStore
from interloom.quality.interleaved import AlignmentCheck, Target
from interloom.quality.shards import Natural
from interloom.text.bpe import load_text_tokenizer
from interloom.text.words import find_words
from interloom.text_to_token.jobs import engine_name
from interloom.vocabulary.layout import VocabularyLayout

_SAMPLE_RATE_HZ = 16_000
_NATURAL_UTTERANCES = 4096  # whose pace is measured
_PRECISION = "fp32"


@dataclass(frozen=True, slots=True)
class Sources:
    """The artifacts that an interleaved corpus is made from.

    Attributes:
        text: Documents.
        text_to_token: Speaks spans.
        tokenizer: Its codes.
        text_tokenizer: Text ids.
        tokens: Real speech: to cut from, or to compare with.
        tasks: What evaluation asks.
    """

    text: ArtifactRef
    text_to_token: ArtifactRef
    tokenizer: ArtifactRef
    text_tokenizer: ArtifactRef
    tokens: ArtifactRef | None
    tasks: ArtifactRef | None


class Workshop:
    """What is light to make, at once; what is heavy, such as the model, when a worker asks for it.

    Attributes:
        layout: The joint vocabulary.
        policy: Chooses spans.
        provenance: Of every row.
        corpus: The documents.
    """

    def __init__(
        self, sources: Sources, config: InterleavingConfig, *, seed: int, store: ArtifactStore
    ) -> None:
        """Check that the artifacts belong together.

        Raises:
            DataError: A model or tokens were made with another tokenizer.
            ConfigError: The recipe asks for recorded speech, but there is none.
        """
        self._sources = sources
        self._config = config
        self._seed = seed
        self._store = store
        _check_tokenizer(sources, store, is_recorded=self.is_recorded)
        facts = store.manifest(sources.tokenizer).facts
        self._text_tokenizer = load_text_tokenizer(store, sources.text_tokenizer)
        self.layout = VocabularyLayout(
            text_vocab_size=self._text_tokenizer.vocab_size,
            codebook_size=facts["codebook_size"],
            text_tokenizer=sources.text_tokenizer.id,
            tokenizer=sources.tokenizer.id,
        )
        if not self.is_recorded:
            held = store.manifest(sources.text_to_token).facts["vocabulary"]
            self.layout.require(held, holder=str(sources.text_to_token))
        self._clock = FrameClock(_SAMPLE_RATE_HZ, facts["samples_per_token"])
        self.policy: Policy = make_policy(config.policy, self._max_words())
        self.provenance = self._provenance()
        self.corpus = self._corpus()

    @property
    def is_recorded(self) -> bool:
        """Whether spans are cut out of recordings."""
        return self._config.speech == "recorded"

    def check(self) -> AlignmentCheck:
        """What rows are measured against."""
        made = self.provenance
        return AlignmentCheck(
            self._text_tokenizer,
            self.layout,
            self._config.synthesis,
            target_of(self._config.policy),
            {
                "made_by": made.made_by,
                "policy": made.policy,
                "seed": made.seed,
                "tokenizer": made.tokenizer,
            },
        )

    def maker(self) -> UnitMaker:
        """What a worker needs, with the model."""
        return UnitMaker(
            config=self._config,
            source=self._source(),
            policy=self.policy,
            weaver=Weaver(self._text_tokenizer, self.layout, self.provenance),
            text_tokenizer=self._text_tokenizer,
            contamination=self._contamination(),
            natural=self.natural(),
            judge=self._judge() if self._config.quality.error_sample else None,
            seed=self._seed,
        )

    def natural(self) -> Natural:
        """The pace of the first recordings that have a text."""
        if self._sources.tokens is None:
            return Natural(codes_per_word=0.0)
        codes = words = 0
        for shard in self._store.manifest(self._sources.tokens).shards_under("tokens/train-"):
            with pq.ParquetFile(self._store.local_path(shard), pre_buffer=False) as file:
                for batch in file.iter_batches(_NATURAL_UTTERANCES, columns=["text", "codes"]):
                    sizes = pc.list_value_length(batch.column("codes")).to_pylist()
                    for text, size in zip(batch.column("text").to_pylist(), sizes, strict=True):
                        words += (number := len(find_words(text)))
                        codes += size if number else 0
            if words >= _NATURAL_UTTERANCES:
                break
        return Natural(codes / words if words else 0.0)

    def _max_words(self) -> int:
        """The longest span is as many words as surely fit into its seconds."""
        config, rate_hz = self._config, float(self._clock.frame_rate_hz)
        codes = min(config.max_span_seconds * rate_hz, config.synthesis.max_tokens)
        return max(1, math.floor(codes / config.synthesis.max_tokens_per_word))

    def _provenance(self) -> Provenance:
        """Of every row; recordings have neither seed nor precision of their own."""
        sources = self._sources
        source = sources.tokens if self.is_recorded else sources.text_to_token
        return Provenance(
            policy=self.policy.name,
            made_by=f"{source.kind}:{source.id}" if source is not None else "",
            tokenizer=sources.tokenizer.id,
            seed=self._seed,
            precision=_PRECISION,
            engine="recorded" if self.is_recorded else engine_name(self._config.synthesis.engine),
        )

    def _corpus(self) -> Corpus:
        config, sources = self._config, self._sources
        taking = Taking(
            share=config.document_share,
            seed=self._seed,
            max_documents=config.max_documents,
            unit_documents=config.documents_per_shard,
            unit_bytes=config.shard_bytes,
        )
        if not self.is_recorded:
            return Corpus(self._store, sources.text, "documents", taking)
        if sources.tokens is None:
            raise ConfigError(
                "interleave.speech is 'recorded', but the request names no speech tokens: run the "
                "stage tokenize_speech before, or set interleave.speech=synthesised"
            )
        return Corpus(self._store, sources.tokens, "tokens", taking)

    def _source(self) -> SpanSource:
        """Recordings, or the model that speaks."""
        if self.is_recorded:
            rate_hz = float(self._clock.frame_rate_hz)
            return Recorded(math.ceil(self._config.quality.max_word_seconds * rate_hz))
        from interloom.text_to_token.runtime import load_text_to_token

        config = self._config.synthesis
        model = load_text_to_token(
            self._store,
            self._sources.text_to_token,
            config=config,
            seed=self._seed,
            judge=self._judge() if config.judged_share else None,
        )
        return Synthesised(model)

    def _judge(self) -> Judge:
        """The reading head of the speech tokenizer."""
        from interloom.speech_tokenizer.runtime import load_speech_tokenizer

        return load_speech_tokenizer(self._store, self._sources.tokenizer).read

    def _contamination(self) -> Contamination | None:
        """Of the evaluation texts."""
        config = self._config.decontamination
        if config is None:
            return None
        return Contamination(self._evaluation_texts(config.taught), config)

    def _evaluation_texts(self, taught: tuple[str, ...]) -> Iterator[str]:
        """Held-out stories, questions and transcripts."""
        if (tasks := self._sources.tasks) is not None:
            for row in read_table(self._store, tasks, "cloze"):
                if row["group"] not in taught:
                    yield f"{row['context']} {row['right']}"
            for row in read_table(self._store, tasks, "questions"):
                if row["group"] not in taught:
                    yield row["question"]
        if (tokens := self._sources.tokens) is not None:
            rows = read_table(self._store, tokens, "tokens", split="heldout", columns=["text"])
            yield from (row["text"] for row in rows)


def _check_tokenizer(sources: Sources, store: ArtifactStore, *, is_recorded: bool) -> None:
    """Refuse codes of another speech tokenizer.

    Raises:
        DataError: A model or tokens have other codes; says which.
    """
    asked = sources.tokenizer.id
    refs = (None if is_recorded else sources.text_to_token, sources.tokens)
    for ref in (one for one in refs if one is not None):
        held = store.manifest(ref).facts["tokenizer"]
        if held != asked:
            verb = "holds codes of" if ref == sources.tokens else "was trained with"
            raise DataError(
                f"{ref} {verb} speech tokenizer {held[:12]}, but the rows are for {asked[:12]}; "
                "make it again with this one"
            )


def target_of(policy: SpanPolicy) -> Target:
    """How many words a document of a policy has spoken."""
    match policy:
        case PoissonSpans():
            return Target(policy.speech_ratio)
        case FineAlternation():
            ratio = policy.speech_words / (policy.speech_words + policy.text_words)
            return Target(ratio, slack=float(policy.speech_words), has_one_cut=False)
        case _:
            return Target(None, has_one_cut=False)
