"""What taking in any corpus has in common: rows are accepted or refused, one by one.

A refused row never stops the rest. The report names each one, where it stands and why it was
refused.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from interloom.core.artifacts import ArtifactKind, ArtifactRef, canonical_json
from interloom.core.errors import DataError, MissingError
from interloom.corpora.permission import BlockList
from interloom.corpora.tables import Row
from interloom.ports.store import ArtifactStore

REPORT = "report.json"
REFUSED = "refused.jsonl"
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was not taken.

    Attributes:
        row: Where it stands: a file, and the line or row in it, counted from 1.
        name: The id that it would have had.
        reason: What is wrong with it, and what is expected.
    """

    row: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class IngestOutcome:
    """What was taken in.

    Attributes:
        corpus: The accepted rows.
        report: Counts in ``report.json``; every refusal in ``refused.jsonl``.
        accepted: Number of rows.
        refused: Number of rows.
        refusals: The first of them, to be shown.
    """

    corpus: ArtifactRef
    report: ArtifactRef
    accepted: int
    refused: int
    refusals: tuple[Refusal, ...]


@dataclass(slots=True)
class Intake:
    """Accepts and refuses rows in bounded memory: of an accepted id it keeps eight bytes."""

    refused_file: TextIO
    blocked: BlockList = field(default_factory=lambda: BlockList.of(()))
    accepted: int = 0
    refused: int = 0
    shown: list[Refusal] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)

    def refuse(self, row: str, name: str, reason: str) -> None:
        """Note a refusal."""
        refusal = Refusal(row, name, reason)
        line = {"row": row, "name": name, "reason": reason}
        self.refused_file.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")
        self.refused += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(refusal)

    def accept(self, row: str, name: str, made: Row) -> Iterator[Row]:
        """The row, unless it was taken down or its id was taken before."""
        entry = self.blocked.entry_for(made)
        if entry is not None:
            self.refuse(row, name, f"{entry} was taken down; see interloom takedown --list")
            return
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        if digest in self._seen:
            self.refuse(row, name, f"the id {name!r} was taken by an earlier row; ids are unique")
            return
        self._seen.add(digest)
        self.accepted += 1
        yield made


def take_in(
    path: Path,
    kind: ArtifactKind,
    *,
    blocked: Iterable[str],
    store: ArtifactStore,
    write: Callable[[Intake], ArtifactRef],
) -> IngestOutcome:
    """Write a corpus and the report of what was refused.

    Args:
        path: What is read; must exist.
        kind: Of the corpus, for the report.
        blocked: What was taken down; see ``BlockList``.
        store: Keeps both.
        write: Reads the source and stores the rows that the intake accepts.

    Raises:
        MissingError: ``path`` does not exist.
        DataError: No row was accepted; the message shows the first refusals.
    """
    if not path.exists():
        raise MissingError(f"there is no {path}; next: name a file or folder that exists")
    with store.draft(ArtifactKind.INGEST_REPORT) as draft:
        with draft.shard(REFUSED) as shard, shard.path.open("w", encoding="utf-8") as file:
            intake = Intake(file, BlockList.of(blocked))
            corpus = write(intake)
            shard.count(rows=intake.refused)
        if intake.accepted == 0:
            why = "; ".join(f"{one.row}: {one.reason}" for one in intake.shown[:3])
            raise DataError(f"no row of {path.name} can be used; {why or 'it holds no row'}")
        with draft.shard(REPORT) as shard:
            body = {"accepted": intake.accepted, "corpus": kind.value, "refused": intake.refused}
            shard.path.write_bytes(canonical_json(body))
        report = draft.commit(parents=(corpus,))
    return IngestOutcome(corpus, report, intake.accepted, intake.refused, tuple(intake.shown))


def confined(root: Path, path: str) -> Path:
    """The file that a row names, inside the folder of its corpus.

    Raises:
        DataError: It is outside, or not a file.
    """
    if "\0" in path:
        raise DataError(f"the path {path!r} holds a zero byte")
    resolved, base = (root / path).resolve(), root.resolve()
    if not resolved.is_relative_to(base):
        raise DataError(f"the path {path!r} leaves the folder of the corpus")
    if not resolved.is_file():
        raise DataError(f"there is no file {path!r}")
    return resolved
