"""Named versions of what was published, and their aliases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from interloom.core.artifacts import ArtifactRef


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """One published artifact under a name: ``version`` counts from 1 for each name."""

    name: str
    version: int
    ref: ArtifactRef
    published_at: str
    num_bytes: int
    counts: Mapping[str, int]
    licences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that was given to a version, or taken away (then ``version`` is None)."""

    name: str
    alias: str
    version: int | None
    at: str
    who: str


class Datasets(Protocol):
    """Names, versions and aliases."""

    def dataset(self, name: str, version: int | None = None) -> DatasetVersion:
        """A named version, the newest by default.

        Raises:
            MissingError: No such name or version; lists the nearest names.
        """
        ...

    def datasets(self) -> Sequence[DatasetVersion]:
        """All published versions, newest first."""
        ...

    def tag(self, name: str, alias: str, version: int | None, who: str) -> None:
        """Give a version of a name an alias, or take the alias away (``version`` is None).

        Raises:
            MissingError: No such name or version.
        """
        ...

    def aliased(self, name: str, alias: str) -> DatasetVersion:
        """The version that an alias of a name stands for.

        Raises:
            MissingError: No such name or alias; lists the aliases there are.
        """
        ...

    def aliases(self, name: str) -> Sequence[Alias]:
        """Every alias that was ever given or taken away, oldest first; the newest of each holds."""
        ...

    def names(self, artifacts: Sequence[ArtifactRef]) -> Sequence[DatasetVersion]:
        """The named versions of these artifacts, in order of name and version."""
        ...
