"""Take in text: plain files, JSONL and Parquet, or a folder of them.

Plain files are cut between paragraphs, and between lines of paragraphs that are too long, into
documents of about ``document_characters``. JSONL and Parquet hold a document a row, in ``text``, at
will with ``id`` and ``licence``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interloom.config.corpora import TakeIn, TextLimits
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.intake import IngestOutcome, Intake, take_in
from interloom.corpora.lines import Placed, read_jsonl, text_field
from interloom.corpora.tables import DOCUMENTS, Row, write_table
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore

_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class Written:
    """A document before it is checked, or why there is none."""

    row: str
    name: str
    text: str
    licence: str = ""
    reason: str = ""


def ingest_text(
    path: Path, options: TakeIn, *, store: ArtifactStore, progress: Progress
) -> IngestOutcome:
    """Take in a text corpus; its documents may be interleaved.

    Args:
        path: A file, or a folder whose files are read in order of path.
        options: Name, licence and limits.
        store: Keeps corpus and report.
        progress: Told the number of rows so far.

    Raises:
        MissingError: ``path`` does not exist.
        DataError: There is no file of a known form, or no row can be used.
    """

    def write(intake: Intake) -> ArtifactRef:
        licences: set[str] = set()
        with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
            rows = _accepted(path, options, intake, progress, licences)
            write_table(draft, "documents", DOCUMENTS, rows)
            return draft.commit(licences=tuple(sorted(licences)))

    return take_in(
        path, ArtifactKind.TEXT_CORPUS, blocked=options.blocked, store=store, write=write
    )


def _accepted(
    path: Path, options: TakeIn, intake: Intake, progress: Progress, licences: set[str]
) -> Iterator[Row]:
    """Check each document; refuse it or pass it on."""
    for number, written in enumerate(_found(path, options.text), start=1):
        progress.update(number, None, f"{intake.refused} refused")
        if reason := written.reason or _refusal(written.text, options.text):
            intake.refuse(written.row, written.name, reason)
            continue
        licence = written.licence or options.licence
        licences.add(licence)
        row = {
            "id": written.name,
            "split": "train",
            "text": written.text,
            "source": options.name,
            "licence": licence,
            "may_interleave": True,
            "facts": [],
        }
        yield from intake.accept(written.row, written.name, row)


def _refusal(text: str, limits: TextLimits) -> str:
    """Why a document is refused; empty if it is not."""
    if len(text.strip()) < limits.min_characters:
        return f"it has {len(text.strip())} characters, at least {limits.min_characters}"
    if len(text) > limits.max_characters:
        return f"it has over {limits.max_characters} characters"
    if "\0" in text or "\ufffd" in text:
        return "it holds characters that stand for bytes which are no text"
    return ""


def _found(path: Path, limits: TextLimits) -> Iterator[Written]:
    """All documents of a file or folder.

    Raises:
        DataError: No file is of a known form.
    """
    root = path if path.is_dir() else path.parent
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    readable = [file for file in files if file.is_file() and file.name.endswith(_SUFFIXES)]
    if not readable:
        raise DataError(f"{path.name} holds no text file ({', '.join(_SUFFIXES)})")
    for file in readable:
        name = file.relative_to(root).as_posix()
        if not file.resolve().is_relative_to(root.resolve()):
            yield Written(name, name, "", reason=f"the link {name!r} leaves the folder")
        elif file.suffix == ".txt":
            yield from _plain(file, name, limits)
        elif file.suffix == ".parquet":
            yield from _rows(name, _parquet(file))
        else:
            yield from _rows(name, read_jsonl(file, max_row_bytes=limits.max_row_bytes))


def _plain(file: Path, name: str, limits: TextLimits) -> Iterator[Written]:
    """A plain file, cut between paragraphs; bytes that are no UTF-8 spoil their document only."""
    held: list[str] = []
    size = number = 0
    most = min(limits.document_characters, limits.max_characters)
    for paragraph in _paragraphs(file, limits.max_characters):
        if held and size + len(paragraph) > most:
            number += 1
            yield Written(f"{name}#{number}", f"{name}#{number}", "\n\n".join(held))
            held, size = [], 0
        held.append(paragraph)
        size += len(paragraph) + 2
    number += 1
    yield Written(f"{name}#{number}", f"{name}#{number}", "\n\n".join(held))


def _paragraphs(file: Path, max_characters: int) -> Iterator[str]:
    """What stands between empty lines, or lines of it if it is too long.

    Of a line that is too long comes only so much that it shows.
    """
    text = ""
    is_new_line = True
    with file.open(encoding="utf-8", errors="replace") as opened:
        while line := opened.readline(max_characters + 1):
            ends_here = line.endswith("\n") or len(line) <= max_characters
            part = line.rstrip() if ends_here else line
            is_too_long = len(text) + 1 + len(part) > max_characters
            if is_new_line and text and (not part or is_too_long):
                yield text
                text = part
            elif is_new_line:
                text = f"{text}\n{part}" if text else part
            elif len(text) <= max_characters:
                text += part
            is_new_line = line.endswith("\n")
    if text:
        yield text


def _parquet(file: Path) -> Iterator[Placed]:
    """The rows of a Parquet file."""
    try:
        with pq.ParquetFile(file) as opened:
            wanted = ("id", "text", "licence", "license")
            columns = [name for name in wanted if name in opened.schema_arrow.names]
            number = 0
            for batch in opened.iter_batches(batch_size=256, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield Placed(f"{file.name}:{number}", values)
    except (pa.ArrowException, OSError) as error:
        yield Placed(file.name, None, f"the file cannot be read as Parquet: {error}")


def _rows(name: str, rows: Iterator[Placed]) -> Iterator[Written]:
    """Documents of rows; without an id, file and number are the id."""
    for placed in rows:
        values: dict[str, Any] = placed.values or {}
        own = name + placed.row.removeprefix(Path(name).name)
        try:
            yield Written(
                row=own,
                name=text_field(values, "id") or own,
                text=text_field(values, "text"),
                licence=text_field(values, "licence", "license"),
                reason=placed.reason or ("" if "text" in values else "it has no field 'text'"),
            )
        except DataError as error:
            yield Written(own, own, "", reason=str(error))
