"""What ingested corpora do not hold: splits, cloze pairs, questions and dialogues.

Dialogues out of documents: the first sentence of a document is what the user says and the second
is the answer, for documents of at least two sentences whose second has at most twenty words.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from interloom.core.errors import DataError
from interloom.corpora.permission import BlockList
from interloom.corpora.tables import Row
from interloom.corpora.world.draws import Draws, hashed_share

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_MAX_ANSWER_WORDS = 20


@dataclass(frozen=True, slots=True)
class Splits:
    """Assigns rows to splits, and drops those that were taken down."""

    seed: int
    heldout_share: float
    blocked: BlockList = field(default_factory=lambda: BlockList.of(()))

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
        """The rows with their split, a function of their id and the seed."""
        for row in self.blocked.keep(rows):
            is_heldout = hashed_share(row["id"], self.seed) < self.heldout_share
            yield _placed(row, is_heldout=is_heldout)

    def spoken(
        self, rows: Iterable[Mapping[str, Any]], heldout_speakers: Collection[str]
    ) -> Iterator[Row]:
        """The utterances with their split: by who speaks, if some speakers are to be held out.

        Raises:
            DataError: One of them says nothing in the corpus.
        """
        if not heldout_speakers:
            yield from self.rows(rows)
            return
        heard = set[str]()
        for row in self.blocked.keep(rows):
            heard.add(row["speaker"])
            yield _placed(row, is_heldout=row["speaker"] in heldout_speakers)
        if missing := sorted(set(heldout_speakers) - heard):
            raise DataError(
                f"ingest.source.heldout_speakers names {', '.join(missing)}, who say nothing in "
                f"the corpus; its speakers are {', '.join(sorted(heard)[:20])}"
            )


def _placed(row: Mapping[str, Any], *, is_heldout: bool) -> Row:
    return {**row, "split": "heldout" if is_heldout else "train"}


def sentences(text: str) -> list[str]:
    """Cut after ``.``, ``!`` and ``?``, and at line ends."""
    parts = (part for line in text.splitlines() for part in _SENTENCE_END.split(line.strip()))
    return [part for part in parts if part]


def cloze(documents: Sequence[Mapping[str, Any]], *, seed: int, limit: int) -> Iterator[Row]:
    """A document's first sentences; its next one is right, one of another document is wrong.

    The wrong one is drawn, by the seed, from the sentences of other documents that are not the
    right one. Documents of one sentence give no pair.
    """
    told = [(row["id"], sentences(row["text"])) for row in documents]
    told = [(row_id, parts) for row_id, parts in told if len(parts) >= 2][:limit]
    for index, (row_id, parts) in enumerate(told):
        draws = Draws(seed, "cloze", row_id)
        cut = 1 + draws.below(len(parts) - 1)
        others = [other for place, (_, other) in enumerate(told) if place != index]
        wrong = [part for part in draws.pick(others) if part != parts[cut]] if others else []
        if wrong:
            yield {
                "id": row_id,
                "split": "heldout",
                "group": "story",
                "context": " ".join(parts[:cut]),
                "right": parts[cut],
                "wrong": draws.pick(wrong),
            }


def questions(dialogues: Iterable[Mapping[str, Any]], *, limit: int) -> Iterator[Row]:
    """The first question of each dialogue, with its answer."""
    asked = (row for row in dialogues if len(row["turns"]) >= 2)
    for row in islice(asked, limit):
        yield {
            "id": row["id"],
            "split": "heldout",
            "group": "dialogue",
            "question": row["turns"][0]["text"],
            "answers": [row["turns"][1]["text"]],
        }


def dialogues_from_documents(
    documents: Iterable[Mapping[str, Any]], *, limit: int
) -> Iterator[Row]:
    """First sentence and answer of each document that has them, in its split."""
    fit = (
        (row, parts)
        for row in documents
        if len(parts := sentences(row["text"])) >= 2 and len(parts[1].split()) <= _MAX_ANSWER_WORDS
    )
    for row, parts in islice(fit, limit):
        yield {
            "id": row["id"],
            "split": row["split"],
            "turns": [
                {"role": "user", "text": parts[0]},
                {"role": "assistant", "text": parts[1]},
            ],
            "source": row["source"],
            "licence": row["licence"],
        }
