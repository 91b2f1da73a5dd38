"""What may be read: rows that were taken down, and what licences and consents a recipe allows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from interloom.core.artifacts import UNRECORDED, ArtifactKind, Manifest
from interloom.core.errors import DataError

_COLUMNS = ("source", "speaker", "licence")


@dataclass(frozen=True, slots=True)
class BlockList:
    """Sources, speakers and licences whose rows are not read any more.

    Attributes:
        entries: ``source:NAME``, ``speaker:ID`` or ``licence:SPDX``.
        dropped: How many rows each entry has cost so far; a row counts for the first that hits it.
    """

    entries: frozenset[str]
    dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, entries: Iterable[str]) -> "BlockList":
        """A block list with nothing dropped yet."""
        return cls(frozenset(entries))

    def entry_for(self, row: Mapping[str, Any]) -> str | None:
        """The entry that keeps a row from being read, if there is one."""
        if not self.entries:
            return None
        values = (f"{column}:{row[column]}" for column in _COLUMNS if row.get(column) is not None)
        return next((value for value in values if value in self.entries), None)

    def keep(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The rows that may be read; the others are counted."""
        for row in rows:
            entry = self.entry_for(row)
            if entry is None:
                yield row
            else:
                self.dropped[entry] += 1

    def allowed(self, licences: Iterable[str]) -> tuple[str, ...]:
        """The licences that are left once blocked ones are dropped, sorted."""
        return tuple(sorted(name for name in licences if f"licence:{name}" not in self.entries))


def require_licences(only: Iterable[str], held: Mapping[str, Iterable[str]]) -> None:
    """Refuse corpora that hold rows under other licences than those a recipe allows.

    Args:
        only: SPDX tags; none allows all.
        held: The licences in each corpus.

    Raises:
        DataError: Names each corpus and what it holds beside them.
    """
    if found := _beside(only, held):
        raise DataError(
            f"the recipe allows only {', '.join(sorted(only))}, but {found}; add them to "
            "ingest.only_licences, take rows under them out with interloom takedown licence:SPDX, "
            "or use another corpus"
        )


def require_consents(only: Iterable[str], held: Mapping[str, Manifest]) -> None:
    """Refuse corpora in which somebody is heard who agreed to something else than a recipe asks.

    Args:
        only: Consents; none allows all.
        held: The corpora's manifests; recordings without a consent count as ``unrecorded``.

    Raises:
        DataError: Names each corpus and what its speakers agreed to beside them.
    """
    if found := _beside(only, {name: consents_of(manifest) for name, manifest in held.items()}):
        raise DataError(
            f"the recipe allows only the consent {', '.join(sorted(only))}, but {found}; add it to "
            "ingest.only_consents, take the corpus in again without those recordings, or use "
            "another corpus"
        )


def consents_of(manifest: Manifest) -> tuple[str, ...]:
    """What those who are heard agreed to; empty where nobody is heard."""
    is_heard = manifest.kind is ArtifactKind.SPEECH_CORPUS
    return manifest.consents or ((UNRECORDED,) if is_heard else ())


def _beside(only: Iterable[str], held: Mapping[str, Iterable[str]]) -> str:
    """Who holds what beside the tags that are allowed; empty if nobody does, or all are allowed."""
    allowed = frozenset(only)
    others = {name: sorted(set(tags) - allowed) for name, tags in held.items() if allowed}
    return "; ".join(f"{name} holds {', '.join(tags)}" for name, tags in others.items() if tags)
