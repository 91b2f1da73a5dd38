"""Checkpoints of a run in progress: our own layout, whole or not counted, for any number of ranks.

Layout of ``step-NNNNNNNN/``: for each rank ``rank-R.safetensors`` with runs of flat parameters and
moments under ``KIND|START|NAME`` and its buffers under ``buffer|NAME``, and ``rank-R.json``,
written once the tensors are on the disk; and last ``manifest.json``, written by the first rank once
every rank's file was read back: its hash is right, it can be opened, and all files together hold
each value of each parameter once. Only then does the step count. How state was split over ranks or
by ZeRO does not matter to who reads it.
"""

import hashlib
import json
import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import TypeAdapter

from interloom.core.errors import DataError, MissingError
from interloom.core.files import written_whole
from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineState, PieceKind
from interloom.training.state import StoredPiece, join_run

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
_FORMAT = 1
_KINDS = frozenset(get_args(PieceKind))


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands; everything random and every row follows from it.

    Attributes:
        step: Optimizer steps that are done.
        next_index: The first micro-batch that was not used yet, over all ranks.
        micro_batches_per_step: Of all ranks together.
        seed: Draws hang on ``(seed, index)``, so that there is no other state of randomness.
        learning_rate: Of the next step.
    """

    step: int
    next_index: int
    micro_batches_per_step: int
    seed: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run has measured so far.

    Attributes:
        curves: The points so far.
        telemetry: Those that hang on the clock.
        recent_losses: Of the last steps, for the detector of spikes.
    """

    curves: tuple[Metric, ...] = ()
    telemetry: tuple[Metric, ...] = ()
    recent_losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RankFile:
    """One rank's file, and what that rank had added up since the last point."""

    name: str
    num_bytes: int
    sha256: str
    sums: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CheckpointManifest:
    """What ``manifest.json`` says."""

    position: Position
    progress: Progress
    shapes: Mapping[str, tuple[int, ...]]
    steps: Mapping[str, float]
    files: tuple[RankFile, ...]
    format: int = _FORMAT


_MANIFESTS = TypeAdapter(CheckpointManifest)
_RANK_FILES = TypeAdapter(RankFile)


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def write_rank(
    folder: Path, step: int, rank: int, state: EngineState, sums: Mapping[str, float]
) -> None:
    """Write one rank's part of a step.

    Raises:
        OSError: The disk is full or away.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = step_folder(folder, step)
    target.mkdir(parents=True, exist_ok=True)
    name = f"rank-{rank}.safetensors"
    tensors = {f"{p.kind}|{p.start}|{p.name}": p.values for p in state.pieces}
    tensors |= {f"buffer|{name}": value for name, value in state.buffers.items()}
    steps = json.dumps(dict(state.steps))
    about = {"steps": steps, "shapes": json.dumps(state.shapes)}
    try:
        with written_whole(target / name) as partial:
            save_file(tensors, partial, metadata=about)
    except SafetensorError as error:  # it hides the number of the error of the system
        raise OSError(str(error)) from error
    size = (target / name).stat().st_size
    file = RankFile(name, size, _sha256(target / name), dict(sums))
    _write(target / f"rank-{rank}.json", json.dumps(asdict(file)).encode())


def has_all_ranks(folder: Path, step: int, world_size: int) -> tuple[int, ...]:
    """The ranks whose part of a step is not written yet."""
    target = step_folder(folder, step)
    return tuple(r for r in range(world_size) if not (target / f"rank-{r}.json").is_file())


def seal(folder: Path, position: Position, progress: Progress, world_size: int) -> None:
    """Read all ranks' parts back, and make the step count. The first rank calls it.

    Raises:
        DataError: What is on the disk is not what was written, or not all of the model.
    """
    target = step_folder(folder, position.step)
    files = tuple(
        _RANK_FILES.validate_json((target / f"rank-{rank}.json").read_bytes())
        for rank in range(world_size)
    )
    shapes, steps = _declared(target, files)
    manifest = CheckpointManifest(position, progress, shapes, steps, files)
    saved = SavedCheckpoint(target, manifest)
    if problems := saved.damage() or saved.gaps():
        raise DataError(f"the checkpoint {target} was not written as it should be: {problems[0]}")
    _write(target / MANIFEST, _MANIFESTS.dump_json(manifest))


def retain(folder: Path, *, newest: int, every: int | None) -> None:
    """Remove all sealed steps but the ``newest`` and those that are a multiple of ``every``."""
    for step in sealed_steps(folder)[newest:]:
        if every is None or step % every:
            target = step_folder(folder, step)
            (target / MANIFEST).unlink()  # first: half a checkpoint must not count
            shutil.rmtree(target)


def remove_unsealed(folder: Path) -> None:
    """Remove what a killed run was still writing. Nobody may write meanwhile."""
    for target in folder.glob("step-*"):
        if not (target / MANIFEST).is_file():
            shutil.rmtree(target)


def sealed_steps(folder: Path) -> list[int]:
    """The steps that count, newest first."""
    marks = folder.glob(f"step-*/{MANIFEST}")
    return sorted((int(mark.parent.name.removeprefix("step-")) for mark in marks), reverse=True)


def open_checkpoint(target: Path) -> "SavedCheckpoint":
    """Open the folder of one sealed step, without reading its tensors.

    Raises:
        MissingError: There is no such folder, or it was never sealed.
        DataError: Its manifest cannot be read.
    """
    path = target / MANIFEST
    if not path.is_file():
        raise MissingError(
            f"there is no whole checkpoint at {target}; name the folder of one step, "
            "such as checkpoints/step-00000200"
        )
    try:
        return SavedCheckpoint(target, _MANIFESTS.validate_json(path.read_bytes()))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error


class SavedCheckpoint:
    """A step on the disk, read as wholes: a ``SavedState``."""

    def __init__(self, target: Path, manifest: CheckpointManifest) -> None:
        """See ``open_checkpoint``."""
        self.folder = target
        self.manifest = manifest
        self.num_ranks = len(manifest.files)
        self.shapes = manifest.shapes
        self.steps = manifest.steps
        self._index: dict[tuple[str, str], list[StoredPiece]] | None = None

    def damage(self, part: slice = slice(None)) -> tuple[str, ...]:
        """What is wrong with these of the files: missing, another size, another hash."""
        found = []
        for file in self.manifest.files[part]:
            path = self.folder / file.name
            if not path.is_file():
                found.append(f"{path} is missing")
            elif path.stat().st_size != file.num_bytes:
                size = path.stat().st_size
                found.append(f"{path} has {size} bytes, expected {file.num_bytes}")
            elif _sha256(path) != file.sha256:
                found.append(f"{path} has changed since it was written")
        return tuple(found)

    def gaps(self) -> tuple[str, ...]:
        """Parameters and moments of which not every value is there once."""
        held: defaultdict[tuple[str, str], int] = defaultdict(int)
        for key, pieces in self._pieces().items():
            held[key] = sum(piece.stop - piece.start for piece in pieces)
        return tuple(
            f"{kind} of {name!r} has {held[name, kind]} of {math.prod(shape)} values"
            for name, shape in self.shapes.items()
            for kind in sorted(_KINDS if name in self.steps else {"value"})
            if held[name, kind] != math.prod(shape)
        )

    def read(self, name: str, kind: PieceKind, start: int, stop: int) -> "Tensor":
        """The run ``[start, stop)`` of a flat parameter or moment."""
        pieces = self._pieces().get((name, kind), [])
        return join_run(pieces, start, stop, f"{kind} of {name!r} in {self.folder}")

    def buffers(self, rank: int) -> "Mapping[str, Tensor]":
        """The buffers that one rank had."""
        with _opened(self.folder / self.manifest.files[rank].name) as file:
            keys = [key for key in file.keys() if key.startswith("buffer|")]  # noqa: SIM118
            return {key.removeprefix("buffer|"): file.get_tensor(key) for key in keys}

    def open_sums(self, rank: int, num_ranks: int) -> dict[str, float]:
        """What had been added up since the last point, for one of ``num_ranks`` that go on.

        As many ranks get back their own; of another number, the first gets all.
        """
        held = [file.sums for file in self.manifest.files]
        if num_ranks == len(held):
            return dict(held[rank])
        names = sorted({name for sums in held for name in sums})
        return {
            name: sum(sums.get(name, 0.0) for sums in held) if rank == 0 else 0.0 for name in names
        }

    def _pieces(self) -> dict[tuple[str, str], list[StoredPiece]]:
        """All pieces by parameter and kind; headers alone are read."""
        if self._index is None:
            self._index = {}
            for file in self.manifest.files:
                for key, piece in _file_pieces(self.folder / file.name):
                    self._index.setdefault(key, []).append(piece)
        return self._index


def _declared(
    target: Path, files: Sequence[RankFile]
) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    """The shapes, and the steps of all parameters, as the ranks' files tell them."""
    shapes: dict[str, tuple[int, ...]] = {}
    steps: dict[str, float] = {}
    for file in files:
        with _opened(target / file.name) as opened:
            told = opened.metadata()
        shapes = {name: tuple(shape) for name, shape in json.loads(told["shapes"]).items()}
        steps |= json.loads(told["steps"])
    return shapes, steps


def _file_pieces(path: Path) -> Iterator[tuple[tuple[str, str], StoredPiece]]:
    """The pieces of one file."""
    opened = _opened(path)
    for key in opened.keys():  # noqa: SIM118 - no mapping
        kind, _, rest = key.partition("|")
        if kind in _KINDS:
            start, _, name = rest.partition("|")
            values = opened.get_slice(key)
            length = int(values.get_shape()[0])
            piece = StoredPiece(int(start), int(start) + length, _reader(values))
            yield (name, kind), piece


def _reader(values: Any) -> "Callable[[int, int], Tensor]":
    """Reads a part of a tensor in a file."""
    return lambda start, stop: values[start:stop]


def _opened(path: Path) -> Any:
    """A safetensors file, memory-mapped.

    Raises:
        DataError: It is not one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    with written_whole(path) as partial:
        partial.write_bytes(data)
