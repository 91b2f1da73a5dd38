"""Recordings and transcripts as sources hold them: a tree, a manifest, a CutSet."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from interloom.audio.files import audio_seconds, read_audio
from interloom.core.errors import DataError
from interloom.corpora.cutset import read_cutset
from interloom.corpora.intake import confined
from interloom.corpora.lines import Placed, read_jsonl, read_tsv, text_field
from interloom.corpora.recorded import Recorded, Unreadable

_MANIFESTS = ("manifest.tsv", "manifest.jsonl")
_AUDIO = (".flac", ".wav", ".ogg", ".opus", ".mp3")
_MAX_ROW_BYTES = 1_000_000


def recordings_of(path: Path) -> Iterator[Recorded | Unreadable]:
    """All rows of a source, whatever its form.

    Raises:
        DataError: The form is not known.
    """
    manifests = [path / name for name in _MANIFESTS if (path / name).is_file()]
    if manifests:
        yield from recordings_of(manifests[0])
    elif path.is_dir():
        yield from _tree(path)
    elif path.suffix == ".tsv":
        yield from _manifest(path.parent, read_tsv(path))
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        if _is_cutset(path):
            yield from read_cutset(path)
        else:
            rows = read_jsonl(path, max_row_bytes=_MAX_ROW_BYTES)
            yield from _manifest(path.parent, rows)
    else:
        raise DataError(
            f"{path.name}: a folder, a .tsv or .jsonl manifest, or a lhotse CutSet (.jsonl.gz) "
            "is expected"
        )


def _is_cutset(path: Path) -> bool:
    """Whether the first row is a lhotse cut."""
    first = next(iter(read_jsonl(path, max_row_bytes=_MAX_ROW_BYTES)), None)
    return first is not None and str((first.values or {}).get("type", "")).endswith("Cut")


def _manifest(root: Path, rows: Iterator[Placed]) -> Iterator[Recorded | Unreadable]:
    """The rows of a manifest."""
    for placed in rows:
        if placed.values is None:
            yield Unreadable(placed.row, "", placed.reason)
            continue
        try:
            yield _from_manifest(root, placed.row, placed.values)
        except DataError as error:
            name = str(placed.values.get("id") or placed.values.get("path") or "")
            yield Unreadable(placed.row, name, str(error))


def _from_manifest(root: Path, row: str, values: dict[str, Any]) -> Recorded:
    """One row of a manifest; without an id, the path is its id.

    Raises:
        DataError: A field is not text, or the path cannot be used.
    """
    path = text_field(values, "path", "audio_filepath", "audio")
    if not path:
        raise DataError("it names no path")
    file = confined(root, path)
    return Recorded(
        row=row,
        name=text_field(values, "id") or path,
        speaker=text_field(values, "speaker"),
        text=text_field(values, "text"),
        licence=text_field(values, "licence", "license"),
        consent=text_field(values, "consent"),
        seconds=partial(audio_seconds, file),
        read=partial(read_audio, file),
    )


def _tree(root: Path) -> Iterator[Recorded | Unreadable]:
    """A LibriSpeech-style tree, folder by folder, in order of name.

    Raises:
        DataError: There is no recording in it.
    """
    folders = sorted({file.parent for file in root.rglob("*") if file.suffix.lower() in _AUDIO})
    if not folders:
        raise DataError(f"{root.name} holds no recording ({', '.join(_AUDIO)})")
    for folder in folders:
        transcripts = _transcripts(folder)
        files = (file for file in folder.iterdir() if file.suffix.lower() in _AUDIO)
        for file in sorted(files):
            yield _from_tree(root, file, transcripts.get(file.stem, ""))


def _transcripts(folder: Path) -> dict[str, str]:
    """The transcripts of one folder by name of the recording."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.trans.txt")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, text = line.strip().partition(" ")
            found[name] = text
    return found


def _from_tree(root: Path, file: Path, text: str) -> Recorded | Unreadable:
    """One recording of a tree; the speaker is the first part of its name, as LibriSpeech has it."""
    row = file.relative_to(root).as_posix()
    try:
        inside = confined(root, row)
    except DataError as error:
        return Unreadable(row, file.stem, str(error))
    return Recorded(
        row=row,
        name=file.stem,
        speaker=file.stem.split("-")[0],
        text=text,
        licence="",
        seconds=partial(audio_seconds, inside),
        read=partial(read_audio, inside),
    )
