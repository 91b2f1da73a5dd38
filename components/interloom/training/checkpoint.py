"""Checkpoints of a run in progress: one file a rank, counted only when all are whole.

A run may go on with another number of ranks: the engine splits the state anew.

Layout: ``step-NNNNNNNN/rank-R.safetensors`` and, written last, ``step-NNNNNNNN/whole.json`` with
the digests of all files.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file

from interloom.core.errors import DataError
from interloom.ports.catalog import Metric

if TYPE_CHECKING:
    from torch import Tensor

_MARK = "whole.json"
_CURVES = TypeAdapter(tuple[Metric, ...])
_SUMS = TypeAdapter(dict[str, float])


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What one rank needs to go on.

    Attributes:
        state: The engine's tensors.
        curves: The points so far.
        sums: What was added up since the last point.
    """

    state: "Mapping[str, Tensor]"
    curves: tuple[Metric, ...]
    sums: Mapping[str, float]


def save_rank(folder: Path, step: int, rank: int, checkpoint: Checkpoint) -> None:
    """Write this rank's part of ``step``; not valid until ``seal``."""
    target = _step_folder(folder, step)
    target.mkdir(parents=True, exist_ok=True)
    temporary = target / f".rank-{rank}.partial"
    curves = _CURVES.dump_json(checkpoint.curves).decode()
    sums = json.dumps(dict(checkpoint.sums))
    save_file(dict(checkpoint.state), temporary, metadata={"curves": curves, "sums": sums})
    _sync(temporary)
    temporary.replace(target / f"rank-{rank}.safetensors")


def seal(folder: Path, step: int, world_size: int) -> None:
    """Declare ``step`` whole and remove older ones. One rank calls it, after all have saved."""
    target = _step_folder(folder, step)
    digests = {
        f"rank-{rank}.safetensors": _sha256(target / f"rank-{rank}.safetensors")
        for rank in range(world_size)
    }
    temporary = target / ".whole.partial"
    temporary.write_text(json.dumps({"step": step, "files": digests}, sort_keys=True))
    _sync(temporary)
    temporary.replace(target / _MARK)
    for older in folder.glob("step-*"):
        if older != target:
            shutil.rmtree(older)


def newest_step(folder: Path) -> int | None:
    """The last step whose checkpoint was sealed, if any."""
    marks = sorted(folder.glob(f"step-*/{_MARK}"))
    return int(json.loads(marks[-1].read_text())["step"]) if marks else None


class SavedCheckpoint:
    """A sealed step, read rank by rank; a file is verified when it is read."""

    def __init__(self, folder: Path, step: int) -> None:
        self._target = _step_folder(folder, step)
        self._digests: dict[str, str] = json.loads((self._target / _MARK).read_text())["files"]

    @property
    def num_ranks(self) -> int:
        """How many ranks wrote it."""
        return len(self._digests)

    def state(self, rank: int) -> "Mapping[str, Tensor]":
        """The tensors of one rank.

        Raises:
            DataError: The file is missing or changed since.
        """
        return self.read(rank).state

    def read(self, rank: int) -> Checkpoint:
        """All that one rank saved.

        Raises:
            DataError: The file is missing or changed since.
        """
        path = self._target / f"rank-{rank}.safetensors"
        if not path.is_file() or _sha256(path) != self._digests[path.name]:
            raise DataError(
                f"{path} is missing or changed since it was written; remove {self._target}"
            )
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            kept = file.metadata()
        return Checkpoint(
            state, _CURVES.validate_json(kept["curves"]), _SUMS.validate_json(kept["sums"])
        )

    def open_sums(self, rank: int, num_ranks: int) -> dict[str, float]:
        """What had been added up since the last point, for one of ``num_ranks`` that go on.

        As many ranks get back their own; of another number, the first gets all.
        """
        if num_ranks == self.num_ranks:
            return dict(self.read(rank).sums)
        held = [self.read(other).sums for other in range(self.num_ranks)]
        names = sorted({name for sums in held for name in sums})
        return {
            name: sum(sums.get(name, 0.0) for sums in held) if rank == 0 else 0.0 for name in names
        }


def _step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
