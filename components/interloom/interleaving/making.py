"""Make the rows of one unit: leave out, plan, speak, weave, measure; all of it on disk at the end.

A unit follows from its documents alone, so that it is the same whoever makes it, whenever, and
however often it was begun before.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interloom.config.interleaving import InterleavingConfig
from interloom.core.artifacts import canonical_json
from interloom.core.files import written_whole
from interloom.corpora.interleaved import SPOKEN
from interloom.corpora.units import Row, Unit
from interloom.interleaving.decontamination import Contamination
from interloom.interleaving.policies import Poisson, Policy
from interloom.interleaving.sampling import expected_lengths
from interloom.interleaving.speaking import Judge, SpanSource, sample
from interloom.interleaving.weaving import Plan, Weaver, plan_document
from interloom.quality.flat import FlatRows
from interloom.quality.shards import Natural, Sums, shard_sums
from interloom.text.bpe import TextTokenizer
from interloom.text.words import find_words
from interloom.text_to_token.guards import word_error_rates
from interloom.text_to_token.spans import SpanResult

_LONG_DOCUMENT = 10  # span lengths are judged in documents of so many mean lengths
_HUGE_DOCUMENT = 100_000  # words; its spans tell no more of the rule than those of others
_MEASURED_DOCUMENTS = 32  # whose text ids are counted, for ids a word


@dataclass(frozen=True, slots=True)
class Tally:
    """What a unit's documents came to, kept or not.

    Attributes:
        documents: Taken from the corpus.
        left_out: Documents without a row, by reason.
        outcomes: Spans by what became of them.
        attempts: At all spans together.
        retried: Spans that were spoken, but not at once.
        refusals: Refused attempts, by reason.
        drawn_tokens: Codes of all attempts, kept or thrown away.
    """

    documents: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    retried: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    drawn_tokens: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.documents + other.documents,
            self.left_out + other.left_out,
            self.outcomes + other.outcomes,
            self.attempts + other.attempts,
            self.retried + other.retried,
            self.refusals + other.refusals,
            self.drawn_tokens + other.drawn_tokens,
        )


@dataclass(frozen=True, slots=True)
class Made:
    """A finished unit, as its files have it.

    Attributes:
        table: Its rows, of schema ``INTERLEAVED``.
        tally: What the documents came to.
        sums: For the checks of the shard.
        lengths: Uncut spans of each length, and how many are expected; empty but for Poisson.
    """

    table: pa.Table
    tally: Tally
    sums: Sums
    lengths: tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class UnitMaker:
    """All that a worker needs.

    Attributes:
        config: Of the recipe.
        source: Gives spans their codes.
        policy: Chooses spans.
        weaver: Puts them into the text.
        text_tokenizer: Counts ids a word.
        contamination: Evaluation texts, or None.
        natural: Real speech to compare with.
        judge: Reads codes back; None if none are to be.
        seed: Of the spans.
    """

    config: InterleavingConfig
    source: SpanSource
    policy: Policy
    weaver: Weaver
    text_tokenizer: TextTokenizer
    contamination: Contamination | None
    natural: Natural
    judge: Judge | None
    seed: int

    def make(self, documents: Iterable[Row], unit: Unit, folder: Path) -> None:
        """Write the unit's files, the last of which says that it is whole."""
        plans, left_out, num_documents = self._plan(documents)
        results = self.source.speak(plans, folder / unit.name)
        outcomes = Counter(
            SPOKEN if one.accepted else one.reason for some in results for one in some
        )
        tally = Tally(
            documents=num_documents,
            left_out=left_out,
            outcomes=outcomes,
            attempts=sum(one.attempts for some in results for one in some),
            retried=sum(one.accepted and one.attempts > 1 for some in results for one in some),
            refusals=Counter(why for some in results for one in some for why in one.refusals),
            drawn_tokens=sum(one.drawn_tokens for some in results for one in some),
        )
        table = self.weaver.weave(plans, results)
        sums = shard_sums(
            table,
            [plan.expected_words for plan in plans],
            natural=self.natural,
            ids_per_word=self._ids_per_word(plans),
            error_rates=self._error_rates(plans, results),
        )
        has_speech = [any(one.accepted for one in some) for some in results]
        tally.left_out["nothing spoken"] += has_speech.count(False)
        made = Made(
            table.filter(pa.array(has_speech, pa.bool_())), tally, sums, self._spread(plans)
        )
        write_made(made, folder / unit.name)
        for part in folder.glob(f"{unit.name}.spans-*"):
            part.unlink(missing_ok=True)

    def _plan(self, documents: Iterable[Row]) -> tuple[list[Plan], Counter[str], int]:
        """Plans of the documents that have spans, why the others have none, and how many came."""
        plans, left_out, number = [], Counter[str](), 0
        for document in documents:
            number += 1
            if (reason := self._refusal(document)) is not None:
                left_out[reason] += 1
                continue
            plan = plan_document(document, self.policy, seed=self.seed)
            if len(plan.words):
                plans.append(plan)
            else:
                left_out["no span"] += 1
        return plans, left_out, number

    def _refusal(self, document: Row) -> str | None:
        """Why a document is left out before it is planned."""
        if not (num_words := len(find_words(document["text"]))):
            return "no words"
        if self.policy.is_too_short(num_words):
            return "too short"
        if self.contamination is not None and self.contamination.holds(document["text"]):
            return "contaminated"
        return self.source.refusal(document)

    def _ids_per_word(self, plans: Sequence[Plan]) -> float:
        """Text ids a word over the first documents."""
        measured = plans[:_MEASURED_DOCUMENTS]
        _, counts = self.text_tokenizer.encode_flat([plan.document["text"] for plan in measured])
        return int(counts.sum()) / max(1, sum(plan.num_words for plan in measured))

    def _error_rates(
        self, plans: Sequence[Plan], results: Sequence[Sequence[SpanResult]]
    ) -> list[float]:
        """Word error rate of a sample of spans that are read back."""
        if self.judge is None or not self.config.quality.error_sample:
            return []
        flat = [one for some in results for one in some]
        chosen = sample(flat, self.config.quality.error_sample)
        texts = [request.text for plan in plans for request in plan.requests()]
        heard = self.judge([flat[at].codes for at in chosen]) if chosen else []
        return word_error_rates([texts[at] for at in chosen], heard)

    def _spread(self, plans: Sequence[Plan]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lengths of uncut spans in long documents, and those that the rule lets expect."""
        if not isinstance(self.policy, Poisson):
            return (), ()
        rule = self.policy.rule
        long = [
            plan
            for plan in plans
            if _LONG_DOCUMENT * rule.mean_words <= plan.num_words <= _HUGE_DOCUMENT
            and self.policy.is_plain(plan.num_words)
            and plan.data.isascii()
        ]
        lengths = [(plan.words.stop - plan.words.start)[~plan.words.is_cut] for plan in long]
        seen = np.bincount(
            np.concatenate([np.zeros(0, np.int64), *lengths]), minlength=rule.max_words + 1
        )
        expected = expected_lengths([plan.words.num_words for plan in long], rule)
        return tuple(seen.astype(float).tolist()), tuple(expected.tolist())


def write_made(made: Made, path: Path) -> None:
    """Write ``path``.parquet, then ``path``.json, each whole or not at all."""
    with written_whole(path.with_name(f"{path.name}.parquet")) as partial:
        pq.write_table(made.table, partial, row_group_size=1024, compression="zstd")
    body = {
        "lengths": made.lengths,
        "sums": made.sums,
        "tally": {one.name: getattr(made.tally, one.name) for one in dataclasses.fields(Tally)},
    }
    with written_whole(path.with_name(f"{path.name}.json")) as partial:
        partial.write_bytes(canonical_json(body))


def is_made(path: Path) -> bool:
    """Whether the unit with these files is whole."""
    return path.with_name(f"{path.name}.json").is_file()


def read_made(path: Path) -> Made:
    """Read what ``write_made`` wrote."""
    body = json.loads(path.with_name(f"{path.name}.json").read_bytes())
    tally: dict[str, Any] = body["tally"]
    counters = {name: Counter(tally[name]) for name in ("left_out", "outcomes", "refusals")}
    with pq.ParquetFile(path.with_name(f"{path.name}.parquet")) as file:
        table = file.read()
    seen, expected = body["lengths"]
    return Made(table, Tally(**(tally | counters)), body["sums"], (tuple(seen), tuple(expected)))


@dataclass(frozen=True, slots=True)
class Held:
    """What the rows of a shard hold: its counts.

    Attributes:
        rows: Of the table.
        words: Of their documents.
        spoken_words: Of them, in spans that are spoken.
        spans: That are spoken.
        speech_tokens: Codes.
        text_tokens: Text ids; markers are in neither.
    """

    rows: int = 0
    words: int = 0
    spoken_words: int = 0
    spans: int = 0
    speech_tokens: int = 0
    text_tokens: int = 0

    @classmethod
    def of(cls, table: pa.Table) -> "Held":
        """Count a table."""
        flat = FlatRows(table)
        spoken = flat.spoken
        speech = int(spoken["num_codes"].sum())
        return cls(
            rows=table.num_rows,
            words=int(pc.sum(table["num_words"]).as_py() or 0),
            spoken_words=int((spoken["word_stop"] - spoken["word_start"]).sum()),
            spans=len(spoken),
            speech_tokens=speech,
            text_tokens=len(flat.ids) - speech - 2 * len(spoken),
        )

    def counts(self) -> dict[str, int]:
        """For a shard of the manifest."""
        names = ("rows", "spans", "speech_tokens", "text_tokens", "words")
        return {name: getattr(self, name) for name in names}

    def __add__(self, other: "Held") -> "Held":
        names = [one.name for one in dataclasses.fields(self)]
        return Held(**{name: getattr(self, name) + getattr(other, name) for name in names})
