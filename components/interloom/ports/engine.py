"""What the training loop asks of the engine that holds model and optimizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from interloom.config.training import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

PieceKind = Literal["value", "exp_avg", "exp_avg_sq"]
MOMENTS: tuple[PieceKind, ...] = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of one parameter's flat values, or of one of its moments.

    Attributes:
        name: The parameter, as the module names it.
        kind: Its values, in the precision they are stepped in, or AdamW's running means.
        start: Where the run begins in the flat parameter.
        values: Shape (length,), on the CPU, nobody else's memory.
    """

    name: str
    kind: PieceKind
    start: int
    values: "Tensor"


@dataclass(frozen=True, slots=True)
class EngineState:
    """One rank's part of model and optimizer: however it is split, by parameter name.

    Attributes:
        shapes: Of every parameter of the module, whole.
        steps: How many steps AdamW has taken, of each parameter it has taken any.
        pieces: All ranks' together hold each value once.
        buffers: The module's buffers as this rank has them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    steps: Mapping[str, float]
    pieces: tuple[Piece, ...]
    buffers: "Mapping[str, Tensor]"


class SavedState(Protocol):
    """What all ranks of a run saved, read as wholes: the way it was split does not matter."""

    @property
    def num_ranks(self) -> int:
        """How many there were."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of every parameter."""
        ...

    @property
    def steps(self) -> Mapping[str, float]:
        """AdamW's steps of each parameter that has moments."""
        ...

    def read(self, name: str, kind: PieceKind, start: int, stop: int) -> "Tensor":
        """The run ``[start, stop)`` of a flat parameter or moment."""
        ...

    def buffers(self, rank: int) -> "Mapping[str, Tensor]":
        """The buffers that one rank had."""
        ...


class TrainEngine(Protocol):
    """One model with its optimizer over all ranks."""

    @property
    def rank(self) -> int:
        """This process among ``world_size``."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        ...

    @property
    def module(self) -> "nn.Module":
        """The module to call for a loss; gradients flow to the engine's optimizer."""
        ...

    def backward(self, loss: "Tensor") -> None:
        """Add the gradient of ``loss``, averaged over accumulation and ranks."""
        ...

    def step(self, learning_rate: float, *, is_skipped: bool = False) -> float:
        """Clip, take one optimizer step at ``learning_rate``, clear gradients.

        A skipped step, and one whose gradient is not finite, changes no parameter and no moment.

        Returns:
            The gradient's norm before clipping; infinite or not a number if the gradient is.
        """
        ...

    def sum_over_ranks(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value summed over ranks; every rank must call it with the same keys."""
        ...

    def state(self) -> EngineState:
        """This rank's part of parameters and moments, copied."""
        ...

    def load_state(self, saved: SavedState) -> None:
        """Continue from what any number of ranks saved, at whatever ZeRO stage.

        Raises:
            DataError: Names or shapes differ from the module's; names the first.
        """
        ...

    def weights(self) -> "dict[str, Tensor]":
        """The whole model's state dict on CPU, in fp32; every rank must call it."""
        ...


EngineBuilder = Callable[["nn.Module", TrainConfig], TrainEngine]
