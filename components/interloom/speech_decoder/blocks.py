"""The block that both networks are made of.

Shapes: B rows, L positions, D channels.
"""

from torch import Tensor, nn


class ConvNextBlock(nn.Module):
    """A depthwise convolution over positions, then a two-layer network at each (Liu et al., 2022).

    Normalisation is over channels alone, so an output depends on ``kernel_size`` positions and on
    nothing else of its row.
    """

    def __init__(self, width: int, kernel_size: int, *, expansion: int = 3) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)
        self.activation = nn.GELU(approximate="tanh")
        self.scale = nn.Parameter(self.narrow.weight.new_full((width,), 0.3))

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        """The same shape as its input, (B, L, D)."""
        mixed_BLD = self.mix(hidden_BLD.transpose(1, 2)).transpose(1, 2)
        update_BLD: Tensor = self.narrow(self.activation(self.widen(self.norm(mixed_BLD))))
        return hidden_BLD + self.scale * update_BLD
