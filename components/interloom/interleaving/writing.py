"""Interleave a text corpus shard by shard: plan, speak, weave, judge, and keep what passes.

A finished shard stays in the workspace, so that a stage that was killed goes on after it. All of a
shard follows from its documents, so the rows are the same either way.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from interloom.config.interleaving import InterleavingConfig
from interloom.core.artifacts import canonical_json
from interloom.core.errors import DataError
from interloom.corpora.interleaved import SPOKEN
from interloom.corpora.tables import batched
from interloom.interleaving.sampling import SpanRule, document_stream
from interloom.interleaving.weaving import Plan, Weaver, plan_document
from interloom.ports.gate import CheckResult, QualityGate
from interloom.ports.workspace import Workspace
from interloom.quality.interleaved import (
    EXPECTATIONS,
    SHARD_SUITE,
    SUITE,
    AlignmentCheck,
    Summary,
    shard_expectations,
    shard_summary,
)
from interloom.text.words import find_words
from interloom.text_to_token.spans import SpanRequest, SpanResult

Row = dict[str, Any]
_NAMED = 5  # rows that an error names


class Speaker(Protocol):
    """What speaks spans: a text-to-token model."""

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        """One result a span, in order."""
        ...


@dataclass(slots=True)
class Tally:
    """Sums over all shards, for the metrics.

    Attributes:
        documents: Taken from the corpus, whether or not they could be woven.
        words: Of the documents that were woven.
        spoken_words: Of them, in spans that are spoken.
        outcomes: Spans by what became of them.
        retried: Spans that took more than one attempt.
        codes: Speech codes.
        ids: Joint ids, markers included.
        quarantined: Rows left out, with the checks they broke.
        licences: Of the rows kept.
        summary: Columns of the rows kept.
        shards: Columns of the shards.
        row_ids: Of the rows kept.
    """

    documents: int = 0
    words: int = 0
    spoken_words: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    codes: int = 0
    ids: int = 0
    quarantined: dict[str, list[str]] = field(default_factory=dict)
    licences: set[str] = field(default_factory=set)
    summary: Summary = field(default_factory=dict)
    shards: Summary = field(default_factory=dict)
    row_ids: list[str] = field(default_factory=list)

    def keep(self, rows: Sequence[Row], summary: Summary) -> None:
        """Add rows that passed, and their summary."""
        for row in rows:
            spoken = [span for span in row["spans"] if span["outcome"] == SPOKEN]
            self.words += len(find_words(row["text"]))
            self.spoken_words += sum(span["word_stop"] - span["word_start"] for span in spoken)
            self.codes += sum(span["num_codes"] for span in spoken)
            self.ids += len(row["ids"])
            self.licences.add(row["licence"])
            self.row_ids.append(row["id"])
        for name, column in summary.items():
            self.summary.setdefault(name, []).extend(column)

    def count_spans(self, rows: Sequence[Row]) -> None:
        """Add what became of the spans of all rows, kept or not."""
        for row in rows:
            self.outcomes.update(span["outcome"] for span in row["spans"])
            self.retried += sum(
                span["outcome"] == SPOKEN and span["attempts"] > 1 for span in row["spans"]
            )


class Interleaver:
    """Turns documents into judged rows.

    Attributes:
        tally: What was seen so far; whole once ``rows`` has ended.
    """

    def __init__(
        self,
        config: InterleavingConfig,
        speaker: Speaker,
        weaver: Weaver,
        check: AlignmentCheck,
        *,
        gate: QualityGate,
        seed: int,
    ) -> None:
        self._config = config
        self._speaker = speaker
        self._weaver = weaver
        self._check = check
        self._gate = gate
        self._seed = seed
        self.tally = Tally()

    def rows(self, documents: Iterable[Row], rule: SpanRule, work: Workspace) -> Iterator[Row]:
        """The rows that pass, in the order of their documents.

        Raises:
            DataError: More rows broke the checks than may be left out; names some.
        """
        taken = islice(
            (one for one in documents if self._is_taken(one)), self._config.max_documents
        )
        folder = work.folder / "shards"
        folder.mkdir(exist_ok=True)
        for index, shard in enumerate(batched(taken, self._config.documents_per_shard)):
            self.tally.documents += len(shard)
            path = folder / f"{index:05d}.json"
            yield from self._judge(self._finished(path) or self._make(shard, rule, path))
            work.progress.update(self.tally.documents, None, f"{self.tally.codes} speech tokens")
        self._limit_quarantine()

    def verdicts(self) -> tuple[CheckResult, ...]:
        """The gate's verdicts on all rows that were kept, and on the shards."""
        shard_ids = [f"shard-{at:05d}" for at in range(len(self.tally.shards["ratio_difference"]))]
        expected = shard_expectations(
            tolerance=self._config.ratio_tolerance, max_refused=self._config.max_refused
        )
        return (
            *self._gate.judge(SUITE, EXPECTATIONS, self.tally.summary, self.tally.row_ids),
            *self._gate.judge(SHARD_SUITE, expected, self.tally.shards, shard_ids),
        )

    def _is_taken(self, document: Mapping[str, Any]) -> bool:
        """Whether a document may be spoken and its id falls into the asked share."""
        if not document["may_interleave"]:
            return False
        share = self._config.document_share
        return share == 1 or document_stream(self._seed, f"take/{document['id']}").random() < share

    def _make(self, documents: Sequence[Row], rule: SpanRule, path: Path) -> list[Row]:
        """Rows of a shard, judged or not; documents without speech give none."""
        plans = [plan_document(document, rule, seed=self._seed) for document in documents]
        plans = [plan for plan in plans if plan.spans]
        spoken = self._speak(plans)
        rows = self._weaver.weave(plans, spoken)
        temporary = path.with_suffix(".partial")
        temporary.write_bytes(canonical_json(rows))
        temporary.replace(path)
        return rows

    def _finished(self, path: Path) -> list[Row] | None:
        """Rows that an earlier run left behind."""
        return list(json.loads(path.read_bytes())) if path.is_file() else None

    def _speak(self, plans: Sequence[Plan]) -> list[list[SpanResult]]:
        """All spans of a shard together, then by document."""
        requests = [plan.requests() for plan in plans]
        results = iter(self._speaker.synthesise([one for some in requests for one in some]))
        return [[next(results) for _ in some] for some in requests]

    def _judge(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of a shard that pass every check; the others go into quarantine."""
        self.tally.count_spans(rows)
        self._add_shard(rows)
        rows = [row for row in rows if any(span["outcome"] == SPOKEN for span in row["spans"])]
        summary = self._check.summarise(rows)
        row_ids = [row["id"] for row in rows]
        broken: dict[str, list[str]] = {}
        for verdict in self._gate.judge(SUITE, EXPECTATIONS, summary, row_ids):
            for row_id in verdict.failed_rows:
                broken.setdefault(row_id, []).append(verdict.expectation)
        self.tally.quarantined |= broken
        kept = [at for at, row_id in enumerate(row_ids) if row_id not in broken]
        passed = [rows[at] for at in kept]
        self.tally.keep(
            passed, {name: [column[at] for at in kept] for name, column in summary.items()}
        )
        return passed

    def _add_shard(self, rows: Sequence[Row]) -> None:
        """Add the sums of a shard."""
        words = [len(find_words(row["text"])) for row in rows]
        for name, column in shard_summary(rows, words, self._config.speech_ratio).items():
            self.tally.shards.setdefault(name, []).extend(column)

    def _limit_quarantine(self) -> None:
        """Refuse the whole if too much of it is broken."""
        broken, kept = self.tally.quarantined, len(self.tally.row_ids)
        if len(broken) > self._config.max_quarantined * (len(broken) + kept):
            named = "; ".join(
                f"{row}: {', '.join(why)}" for row, why in islice(broken.items(), _NAMED)
            )
            raise DataError(
                f"{len(broken)} of {len(broken) + kept} interleaved rows broke a check, more than "
                f"the {self._config.max_quarantined:.1%} that may be left out: {named}"
            )
        if not kept:
            raise DataError(
                "no document could be interleaved: none may be, all are too short, or no span "
                f"could be spoken ({dict(self.tally.outcomes)}); look at the corpus and at "
                "text_to_token's metrics"
            )
