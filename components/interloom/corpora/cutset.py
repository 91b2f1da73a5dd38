"""Rows of a lhotse CutSet, read lazily."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import SAMPLE_RATE_HZ, resample
from interloom.core.errors import DataError, MissingError
from interloom.corpora.intake import confined
from interloom.corpora.recorded import Recorded, Unreadable


def read_cutset(path: Path) -> Iterator[Recorded | Unreadable]:
    """The cuts of a CutSet; recordings are files in its folder, or in the CutSet itself.

    Raises:
        MissingError: lhotse is not installed.
    """
    try:
        from lhotse import CutSet
    except ModuleNotFoundError as error:
        raise MissingError(
            "reading a CutSet needs lhotse; next: pip install 'interloom[data]'"
        ) from error
    for number, cut in enumerate(CutSet.from_jsonl_lazy(path), start=1):
        row = f"{path.name}:{number}"
        try:
            yield _recorded(path.parent, row, cut)
        except DataError as error:
            yield Unreadable(row, str(cut.id), str(error))


def _recorded(root: Path, row: str, cut: Any) -> Recorded:
    """One cut.

    Raises:
        DataError: It is not of one recording, or its recording is read from elsewhere.
    """
    if type(cut).__name__ != "MonoCut" or cut.recording is None:
        raise DataError(f"a MonoCut with a recording is expected, got {type(cut).__name__}")
    for source in cut.recording.sources:
        if source.type == "file":
            source.source = str(confined(root, str(source.source)))
        elif source.type != "memory":
            raise DataError(f"recordings are files, this one is of type {source.type!r}")
    return Recorded(
        row=row,
        name=str(cut.id),
        speaker=str(next((s.speaker for s in cut.supervisions if s.speaker), "")),
        text=" ".join(str(s.text) for s in cut.supervisions if s.text),
        licence="",
        seconds=partial(float, cut.duration),
        read=partial(_read, cut),
        words=tuple(_words(cut)),
    )


def _read(cut: Any) -> NDArray[np.float32]:
    """Decode a cut.

    Raises:
        DataError: lhotse cannot.
    """
    try:
        samples_CS = cut.load_audio()
    except Exception as error:
        raise DataError(f"cannot read the audio of cut {cut.id!r}: {error}") from error
    mono_S = np.asarray(samples_CS, dtype=np.float32).mean(axis=0)
    return resample(mono_S, from_hz=int(cut.sampling_rate), to_hz=SAMPLE_RATE_HZ)


def _words(cut: Any) -> Iterator[dict[str, Any]]:
    """The words of a cut's alignment, in samples at 16 kHz."""
    for supervision in cut.supervisions:
        for item in (supervision.alignment or {}).get("word", ()):
            start = max(0, round((supervision.start + item.start) * SAMPLE_RATE_HZ))
            stop = start + round(item.duration * SAMPLE_RATE_HZ)
            if item.symbol and stop > start:
                yield {"word": item.symbol, "start": start, "stop": stop}
