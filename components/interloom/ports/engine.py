"""What the training loop asks of the engine that holds model and optimizer."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from interloom.config.training import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn


class SavedRanks(Protocol):
    """What the ranks of a run saved."""

    @property
    def num_ranks(self) -> int:
        """How many there were."""
        ...

    def state(self, rank: int) -> "Mapping[str, Tensor]":
        """The tensors of one of them."""
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

    def step(self, learning_rate: float) -> float:
        """Clip, take one optimizer step at ``learning_rate``, clear gradients.

        Returns:
            The gradient's norm before clipping.
        """
        ...

    def sum_over_ranks(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value summed over ranks; every rank must call it with the same keys."""
        ...

    def state(self) -> "Mapping[str, Tensor]":
        """This rank's model, buffers and optimizer state as flat named tensors."""
        ...

    def load_state(self, saved: SavedRanks) -> None:
        """Continue from what ``state`` gave on each rank, of as many ranks or of another number.

        Raises:
            DataError: Names or shapes differ, or this engine cannot split the state anew.
        """
        ...

    def weights(self) -> "dict[str, Tensor]":
        """The whole model's state dict on CPU, in fp32; every rank must call it."""
        ...


EngineBuilder = Callable[["nn.Module", TrainConfig], TrainEngine]
