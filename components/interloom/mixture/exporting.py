"""Packed rows for other programs: Megatron's files, WebDataset shards, or a Parquet table.

Rows leave without padding. What is written depends on the rows alone: no clock, no user, no path.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from interloom.core.artifacts import ArtifactRef
from interloom.core.errors import ConfigError
from interloom.mixture.rows import RowPart, load_rows
from interloom.ports.store import ArtifactStore

_ROWS_PER_TAR = 4096
_ROWS_PER_GROUP = 1024


class RowFormat(StrEnum):
    """What rows are exported as."""

    MEGATRON = "megatron"
    WEBDATASET = "webdataset"
    PARQUET = "parquet"


def export_rows(
    store: ArtifactStore, ref: ArtifactRef, folder: Path, form: RowFormat
) -> tuple[Path, ...]:
    """Write the rows for training to a folder that has none yet.

    Beside them stands ``vocabulary.json``: the layout that the ids were made with, and its digest.

    Args:
        store: Holds the rows.
        ref: Of kind ``packed_rows``.
        folder: Made if need be.
        form: ``megatron`` gives ``rows-NNNNN.bin`` and ``.idx``, a document for each row and a
            sequence for each piece; ``webdataset`` tars of ``ROW.npy`` and ``ROW.json``;
            ``parquet`` one table of tokens, targets, sources and licences.

    Raises:
        ConfigError: The folder is not empty.
        DataError: The rows are damaged.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write: dict[RowFormat, Callable[[ArtifactStore, ArtifactRef, Path], Iterator[Path]]] = {
        RowFormat.MEGATRON: _megatron,
        RowFormat.WEBDATASET: _webdataset,
        RowFormat.PARQUET: _parquet,
    }
    facts = store.manifest(ref).facts
    vocabulary = folder / "vocabulary.json"
    body = {"digest": facts["vocabulary"], "layout": facts["layout"]}
    vocabulary.write_text(json.dumps(body, indent=1, sort_keys=True))
    return (*write[form](store, ref, folder), vocabulary)


def _megatron(store: ArtifactStore, ref: ArtifactRef, folder: Path) -> Iterator[Path]:
    """The artifact's own files."""
    load_rows(store, ref)  # refuses what does not fit together
    for shard in store.manifest(ref).shards_under("rows-"):
        name, _, file = shard.path.partition("/")
        if file in {"tokens.bin", "tokens.idx"}:
            path = folder / f"{name}{Path(file).suffix}"
            shutil.copyfile(store.local_path(shard), path)
            yield path


def _webdataset(store: ArtifactStore, ref: ArtifactRef, folder: Path) -> Iterator[Path]:
    records = _records(store, ref)
    count = store.manifest(ref).count("rows")
    for first in range(0, count, _ROWS_PER_TAR):
        path = folder / f"rows-{first // _ROWS_PER_TAR:05d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(first, min(first + _ROWS_PER_TAR, count)):
                record = next(records)
                tokens = io.BytesIO()
                np.save(tokens, record.pop("tokens"))
                targets = io.BytesIO()
                np.save(targets, record.pop("is_target"))
                _add(tar, f"{number:09d}.tokens.npy", tokens.getvalue())
                _add(tar, f"{number:09d}.targets.npy", targets.getvalue())
                _add(tar, f"{number:09d}.json", json.dumps(record, sort_keys=True).encode())
        yield path


def _parquet(store: ArtifactStore, ref: ArtifactRef, folder: Path) -> Iterator[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    piece = pa.struct(
        [
            ("source", pa.string()),
            ("document", pa.string()),
            ("start", pa.int32()),
            ("tokens", pa.int32()),
            ("licence", pa.string()),
        ]
    )
    schema = pa.schema(
        [
            ("tokens", pa.list_(pa.int32())),
            ("is_target", pa.list_(pa.bool_())),
            ("pieces", pa.list_(piece)),
        ]
    )
    path = folder / "rows.parquet"
    held: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for record in _records(store, ref):
            held.append(record)
            if len(held) == _ROWS_PER_GROUP:
                file.write_table(pa.Table.from_pylist(held, schema=schema))
                held.clear()
        if held:
            file.write_table(pa.Table.from_pylist(held, schema=schema))
    yield path


def _records(store: ArtifactStore, ref: ArtifactRef) -> Iterator[dict[str, Any]]:
    """Each row: its tokens, targets and the pieces that it is made of."""
    rows = load_rows(store, ref, RowPart.TRAIN)
    for number in range(rows.num_rows):
        pieces = [
            {
                "source": origin.source,
                "document": origin.document_id,
                "start": origin.start,
                "tokens": origin.num_tokens,
                "licence": origin.licence,
            }
            for origin in rows.origins(number)
        ]
        length = len(rows.tokens(number))
        batch = rows.batch([number])
        yield {
            "tokens": batch.tokens_BL[0, :length],
            "is_target": batch.is_target_BL[0, :length],
            "pieces": pieces,
        }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # times, owners and modes stay at nought
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
