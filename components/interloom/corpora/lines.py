"""Rows of JSONL and TSV files, one at a time, with where they stand."""

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from interloom.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Placed:
    """One row of a file.

    Attributes:
        row: File and number of the line, from 1.
        values: Its fields; None if it cannot be read.
        reason: Why it cannot be read.
    """

    row: str
    values: dict[str, Any] | None
    reason: str = ""


def read_jsonl(path: Path, *, max_row_bytes: int) -> Iterator[Placed]:
    """The objects of a JSONL file (``.gz`` too); empty lines are skipped.

    A line that is too long is skipped without being held in memory.
    """
    with _open(path) as file:
        number = 0
        while line := file.readline(max_row_bytes + 1):
            number += 1
            row = f"{path.name}:{number}"
            if len(line) > max_row_bytes:
                while line and not line.endswith(b"\n"):
                    line = file.readline(max_row_bytes)
                yield Placed(row, None, f"the line is over {max_row_bytes} bytes long")
            elif line.strip():
                yield _parsed(row, line)


def _open(path: Path) -> BinaryIO:
    """Bytes of a file, decompressed."""
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _parsed(row: str, line: bytes) -> Placed:
    """A line as an object, or why it is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Placed(row, None, f"the line is not JSON: {error}")
    if not isinstance(values, dict):
        return Placed(row, None, f"a JSON object is expected, got {type(values).__name__}")
    return Placed(row, values)


def read_tsv(path: Path) -> Iterator[Placed]:
    """The rows of a TSV file with a header, as text; no quoting.

    Raises:
        DataError: The file is not UTF-8, or its first line does not name ``path`` and ``text``.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            header = next(rows, [])
            if missing := [name for name in ("path", "text") if name not in header]:
                raise DataError(
                    f"{path.name}: the first line must name the columns path and text, "
                    f"separated by tabs; missing: {', '.join(missing)}"
                )
            for values in rows:
                row = f"{path.name}:{rows.line_num}"
                if len(values) != len(header):
                    reason = f"it has {len(values)} columns, but the header has {len(header)}"
                    yield Placed(row, None, reason)
                else:
                    yield Placed(row, dict(zip(header, values, strict=True)))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path.name} cannot be read as UTF-8 TSV: {error}") from error


def text_field(values: dict[str, Any], *names: str) -> str:
    """The first of these fields that is there, as text; empty if none is.

    Raises:
        DataError: It is not text.
    """
    for name in names:
        value = values.get(name)
        if value is not None:
            if isinstance(value, int | float):
                return str(value)
            if not isinstance(value, str):
                raise DataError(f"the field {name!r} must be text, got {type(value).__name__}")
            return value
    return ""
