"""Named versions of what was published."""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping, select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import NAMESPACE, Room, now_text, ref_of
from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import MissingError
from interloom.ports.catalog import Alias, DatasetVersion

_ASKED_AT_ONCE = 500


class Datasets(Room):
    """Queries about named versions."""

    def dataset(self, name: str, version: int | None = None) -> DatasetVersion:
        """A named version, the newest by default."""
        wanted = versions().where(is_named(name))
        if version is not None:
            wanted = wanted.where(t.dataset_version.c.version == version)
        wanted = wanted.order_by(t.dataset_version.c.version.desc()).limit(1)
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(wanted).mappings().first()
            if row is not None:
                return dataset_version(connection, row)
            names = connection.execute(select(t.dataset.c.name)).scalars().all()
        raise MissingError(_no_dataset(name, version, names))

    def tag(self, name: str, alias: str, version: int | None, who: str) -> None:
        """Append to the log of aliases."""
        if version is not None:
            self.dataset(name, version)
        with self._database.transaction() as connection:
            dataset_id = connection.execute(select(t.dataset.c.id).where(is_named(name))).scalar()
            if dataset_id is None:
                names = connection.execute(select(t.dataset.c.name)).scalars().all()
                raise MissingError(_no_dataset(name, None, names))
            connection.execute(
                sa.insert(t.dataset_alias).values(
                    dataset_id=dataset_id, alias=alias, version=version, at=now_text(), who=who
                )
            )

    def aliased(self, name: str, alias: str) -> DatasetVersion:
        """The version that the newest row of an alias names."""
        held = {entry.alias: entry.version for entry in self.aliases(name)}
        version = held.get(alias)
        if version is not None:
            return self.dataset(name, version)
        self.dataset(name)  # says so if there is no such name
        given = ", ".join(sorted(key for key, value in held.items() if value is not None))
        hint = f"its aliases are {given}" if given else "it has no alias"
        raise MissingError(f"{name!r} has no alias {alias!r}; {hint}")

    def aliases(self, name: str) -> Sequence[Alias]:
        """The log of a name's aliases."""
        wanted = (
            select(t.dataset_alias)
            .join(t.dataset, t.dataset.c.id == t.dataset_alias.c.dataset_id)
            .where(is_named(name))
            .order_by(t.dataset_alias.c.seq)
        )
        with self._database.transaction(writes=False) as connection:
            return [
                Alias(name, row["alias"], row["version"], row["at"], row["who"])
                for row in connection.execute(wanted).mappings()
            ]

    def names(self, artifacts: Sequence[ArtifactRef]) -> Sequence[DatasetVersion]:
        """The named versions of these artifacts."""
        wanted = (
            versions()
            .where(t.dataset_version.c.artifact_id.in_({ref.id for ref in artifacts}))
            .order_by(t.dataset.c.name, t.dataset_version.c.version)
        )
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(wanted).mappings().all()
            return dataset_versions(connection, rows)

    def datasets(self) -> Sequence[DatasetVersion]:
        """All published versions, newest first."""
        newest = versions().order_by(
            t.dataset_version.c.published_at.desc(), t.dataset.c.name, t.dataset_version.c.version
        )
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(newest).mappings().all()
            return dataset_versions(connection, rows)


def is_named(name: str) -> sa.ColumnElement[bool]:
    """Whether a data set has this name: both columns of the index."""
    return (t.dataset.c.namespace == NAMESPACE) & (t.dataset.c.name == name)


def versions() -> sa.Select[Any]:
    """Named versions with what is known of their artifacts."""
    return (
        select(
            t.dataset.c.name,
            t.dataset_version.c.version,
            t.dataset_version.c.published_at,
            t.artifact.c.kind,
            t.artifact.c.id,
            t.artifact.c.num_bytes,
            t.artifact.c.counts_json,
        )
        .join(t.dataset, t.dataset.c.id == t.dataset_version.c.dataset_id)
        .join(t.artifact, t.artifact.c.id == t.dataset_version.c.artifact_id)
    )


def dataset_version(connection: Connection, row: RowMapping) -> DatasetVersion:
    """A row of ``versions`` as the port shows it."""
    return dataset_versions(connection, [row])[0]


def dataset_versions(
    connection: Connection, rows: Sequence[RowMapping]
) -> Sequence[DatasetVersion]:
    """Rows of ``versions`` as the port shows them; asks for licences of many at once."""
    tags: dict[str, list[str]] = {}
    for first in range(0, len(rows), _ASKED_AT_ONCE):
        ids = {row["id"] for row in rows[first : first + _ASKED_AT_ONCE]}
        wanted = select(t.licence_tag).where(t.licence_tag.c.artifact_id.in_(ids))
        for held in connection.execute(wanted).mappings():
            tags.setdefault(held["artifact_id"], []).append(held["tag"])
    return [
        DatasetVersion(
            name=row["name"],
            version=row["version"],
            ref=ref_of(row),
            published_at=row["published_at"],
            num_bytes=row["num_bytes"],
            counts=json.loads(row["counts_json"]),
            licences=tuple(sorted(set(tags.get(row["id"], ())))),
        )
        for row in rows
    ]


def _no_dataset(name: str, version: int | None, names: Sequence[str]) -> str:
    """What to say when a name or a version is not there."""
    import difflib

    if name in names:
        return f"{name!r} has no version {version}; list them with: interloom data list"
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or sorted(names)[:3]
    hint = f"the nearest are {', '.join(near)}" if near else "nothing is published yet"
    return f"no dataset is called {name!r}; {hint}"
