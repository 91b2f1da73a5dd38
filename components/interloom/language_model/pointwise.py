"""Rotary positions and SwiGLU, each forward and backward in few passes over memory.

On a processor these bind a training step as soon as its matrices are small, as torch's own graph
of them splits, concatenates and copies in both directions. A compiler is given that graph, to fuse
it as it sees fit.

Legend: B rows, T tokens, H heads, E channels of a head, F inner width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

Turn = tuple[Tensor, Tensor]
"""Cosines and sines (B, 1, T, E / 2)."""


def rotate(x_BHTE: Tensor, turn: Turn) -> Tensor:
    """Turn each pair of channels, one of the first and one of the second half, by its angle."""
    if torch.compiler.is_compiling():
        cos, sin = turn
        first, second = x_BHTE.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    out: Tensor = _Rotate.apply(x_BHTE, *turn)  # type: ignore[no-untyped-call]
    return out


def swiglu(gate_up_BTF: Tensor) -> Tensor:
    """``silu(gate) * up`` of the two halves of the last axis."""
    if torch.compiler.is_compiling():
        gate, up = gate_up_BTF.chunk(2, dim=-1)
        return functional.silu(gate) * up
    out: Tensor = _SwiGlu.apply(gate_up_BTF)  # type: ignore[no-untyped-call]
    return out


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(d_out, cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    out = torch.empty_like(x)
    one, other = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=one)
    one.addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=other)
    other.addcmul_(first, sin, value=sign)
    return out


class _SwiGlu(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        torch.mul(d_out, functional.silu(gate), out=d_up)
        d_gate.copy_(torch.ops.aten.silu_backward(d_out * up, gate))
        return d_gate_up
