"""Take in chats: JSONL with ``messages`` or ``turns`` of ``role`` and ``content`` or ``text``.

System messages are left out. What remains begins with the user, alternates, and ends with the
assistant.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interloom.config.corpora import TakeIn
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError
from interloom.corpora.intake import IngestOutcome, Intake, take_in
from interloom.corpora.lines import Placed, read_jsonl, text_field
from interloom.corpora.tables import DIALOGUES, Row, write_table
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactStore

_ROLES = ("user", "assistant")


def ingest_dialogues(
    path: Path, options: TakeIn, *, store: ArtifactStore, progress: Progress
) -> IngestOutcome:
    """Take in dialogues.

    Args:
        path: A JSONL file, at will with ``.gz``.
        options: Name, licence and limits.
        store: Keeps corpus and report.
        progress: Told the number of rows so far.

    Raises:
        MissingError: ``path`` does not exist.
        DataError: It is no JSONL file, or no row can be used.
    """

    def write(intake: Intake) -> ArtifactRef:
        licences: set[str] = set()
        with store.draft(ArtifactKind.DIALOGUE_CORPUS) as draft:
            rows = _accepted(path, options, intake, progress, licences)
            write_table(draft, "dialogues", DIALOGUES, rows)
            return draft.commit(licences=tuple(sorted(licences)))

    if path.exists() and not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"{path.name}: dialogues are a .jsonl or .jsonl.gz file")
    return take_in(
        path, ArtifactKind.DIALOGUE_CORPUS, blocked=options.blocked, store=store, write=write
    )


def _accepted(
    path: Path, options: TakeIn, intake: Intake, progress: Progress, licences: set[str]
) -> Iterator[Row]:
    """Check each dialogue; refuse it or pass it on."""
    rows = read_jsonl(path, max_row_bytes=options.text.max_row_bytes)
    for number, placed in enumerate(rows, start=1):
        progress.update(number, None, f"{intake.refused} refused")
        name = placed.row
        try:
            values = _readable(placed)
            name = text_field(values, "id") or placed.row
            licence = text_field(values, "licence", "license") or options.licence
            turns = _turns(values)
        except DataError as error:
            intake.refuse(placed.row, name, str(error))
            continue
        licences.add(licence)
        row = {
            "id": name,
            "split": "train",
            "turns": turns,
            "source": options.name,
            "licence": licence,
        }
        yield from intake.accept(placed.row, name, row)


def _readable(placed: Placed) -> dict[str, Any]:
    """The fields of a row.

    Raises:
        DataError: It could not be read.
    """
    if placed.values is None:
        raise DataError(placed.reason)
    return placed.values


def _turns(values: dict[str, Any]) -> list[dict[str, str]]:
    """The turns of a dialogue.

    Raises:
        DataError: They are not user and assistant by turns, or one is empty.
    """
    messages = values.get("messages", values.get("turns"))
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise DataError("it has no list 'messages' or 'turns' of objects")
    told = [(text_field(one, "role"), text_field(one, "content", "text")) for one in messages]
    turns = [(role, text.strip()) for role, text in told if role != "system"]
    roles = [role for role, _ in turns]
    if not roles or len(roles) % 2 or roles != [_ROLES[place % 2] for place in range(len(roles))]:
        raise DataError(f"user and assistant must take turns, user first, got {roles}")
    if empty := [place for place, (_, text) in enumerate(turns, start=1) if not text]:
        raise DataError(f"turn {empty[0]} is empty")
    return [{"role": role, "text": text} for role, text in turns]
