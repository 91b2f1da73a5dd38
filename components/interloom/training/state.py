"""Training state as flat pieces by parameter name, so that any split can be made of any other."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interloom.core.errors import DataError
from interloom.ports.engine import MOMENTS, EngineState, PieceKind, SavedState

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """A piece that is somewhere: its place in the flat parameter, and how to read a part of it.

    Attributes:
        start: First place in the flat parameter.
        stop: After the last.
        read: Gives the values of ``[from, to)``, counted from the piece's own start.
    """

    start: int
    stop: int
    read: "Callable[[int, int], Tensor]"


def join_run(pieces: Iterable[StoredPiece], start: int, stop: int, what: str) -> "Tensor":
    """The run ``[start, stop)`` out of the pieces that hold it.

    Raises:
        DataError: A place is in no piece.
    """
    import torch

    found, at = [], start
    for piece in sorted(pieces, key=lambda piece: piece.start):
        if piece.start <= at < piece.stop and at < stop:
            end = min(stop, piece.stop)
            found.append(piece.read(at - piece.start, end - piece.start))
            at = end
    if at != stop:
        raise DataError(
            f"the saved state holds nothing of {what} at place {at} of [{start}, {stop})"
        )
    return torch.cat(found) if found else torch.empty(0)


class JoinedState:
    """The states of all ranks in memory, read as a ``SavedState``."""

    def __init__(self, states: Sequence[EngineState]) -> None:
        """Take one state a rank, in their order."""
        self._states = states
        self.num_ranks = len(states)
        self.shapes = states[0].shapes
        self.steps = states[0].steps

    def read(self, name: str, kind: PieceKind, start: int, stop: int) -> "Tensor":
        """The run ``[start, stop)`` of a flat parameter or moment."""
        held = [
            StoredPiece(piece.start, piece.start + len(piece.values), _reader(piece.values))
            for state in self._states
            for piece in state.pieces
            if (piece.name, piece.kind) == (name, kind)
        ]
        return join_run(held, start, stop, f"{kind} of {name!r}")

    def buffers(self, rank: int) -> "Mapping[str, Tensor]":
        """The buffers that one rank had."""
        return self._states[rank].buffers


def whole_state(saved: SavedState) -> "dict[str, Tensor]":
    """Every parameter, ``NAME``, and moment, ``NAME/exp_avg``, flat and whole."""
    whole: dict[str, Tensor] = {}
    for name, shape in saved.shapes.items():
        length = math.prod(shape)
        whole[name] = saved.read(name, "value", 0, length)
        if name in saved.steps:
            for kind in MOMENTS:
                whole[f"{name}/{kind}"] = saved.read(name, kind, 0, length)
    return whole


def require_fit(own: Mapping[str, tuple[int, ...]], saved: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse the state of another model.

    Raises:
        DataError: A name or a shape differs; names the first.
    """
    for name in sorted(set(own) | set(saved)):
        want, got = own.get(name), saved.get(name)
        if want != got:
            raise DataError(
                f"the checkpoint does not fit the model: {name!r} has shape {got} in the "
                f"checkpoint and {want} here; remove the checkpoint or restore the recipe"
            )


def own_buffers(saved: SavedState, rank: int, world_size: int) -> "Mapping[str, Tensor]":
    """The buffers for one rank: its own if as many ranks saved them, else the first one's."""
    return saved.buffers(rank if saved.num_ranks == world_size else 0)


def _reader(values: "Tensor") -> "Callable[[int, int], Tensor]":
    return lambda start, stop: values[start:stop]
