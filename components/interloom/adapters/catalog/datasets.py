"""Named versions of what was published."""

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping, select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import Room, ref_of
from interloom.core.errors import MissingError
from interloom.ports.catalog import DatasetVersion


class Datasets(Room):
    """Queries about named versions."""

    def dataset(self, name: str, version: int | None = None) -> DatasetVersion:
        """A named version, the newest by default."""
        wanted = versions().where(t.dataset.c.name == name)
        if version is not None:
            wanted = wanted.where(t.dataset_version.c.version == version)
        wanted = wanted.order_by(t.dataset_version.c.version.desc()).limit(1)
        with self._database.transaction(writes=False) as connection:
            row = connection.execute(wanted).mappings().first()
            if row is not None:
                return dataset_version(connection, row)
            names = connection.execute(select(t.dataset.c.name)).scalars().all()
        raise MissingError(_no_dataset(name, version, names))

    def datasets(self) -> Sequence[DatasetVersion]:
        """All published versions, newest first."""
        newest = versions().order_by(
            t.dataset_version.c.published_at.desc(), t.dataset.c.name, t.dataset_version.c.version
        )
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(newest).mappings().all()
            return [dataset_version(connection, row) for row in rows]


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
    tags = (
        select(t.licence_tag.c.tag)
        .where(t.licence_tag.c.artifact_id == row["id"])
        .order_by(t.licence_tag.c.tag)
    )
    return DatasetVersion(
        name=row["name"],
        version=row["version"],
        ref=ref_of(row),
        published_at=row["published_at"],
        num_bytes=row["num_bytes"],
        counts=json.loads(row["counts_json"]),
        licences=tuple(connection.execute(tags).scalars()),
    )


def _no_dataset(name: str, version: int | None, names: Sequence[str]) -> str:
    """What to say when a name or a version is not there."""
    import difflib

    if name in names:
        return f"{name!r} has no version {version}; list them with: interloom data list"
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or sorted(names)[:3]
    hint = f"the nearest are {', '.join(near)}" if near else "nothing is published yet"
    return f"no dataset is called {name!r}; {hint}"
