"""Matrix products for training in fp32 on a processor, by oneDNN.

torch multiplies fp32 matrices by MKL, which holds back on processors of another maker: on an AMD
EPYC oneDNN is twice as fast on the products of a training step. Everything else, and all that
needs no gradient, stays with torch: what a model answers does not hang on this.

Legend: N rows, I inputs, O outputs.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional


class Linear(nn.Linear):
    """``nn.Linear``, fast in training; a bias begins at zero."""

    def __init__(self, in_features: int, out_features: int, *, has_bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=has_bias)
        self.has_bias = has_bias
        if has_bias:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``x @ weight.T + bias``."""
        is_compiling = torch.compiler.is_compiling()  # the compiler has products of its own
        if torch.is_grad_enabled() and not is_compiling and _is_ours(x, self.weight):
            out: Tensor = _Linear.apply(x, self.weight)  # type: ignore[no-untyped-call]
            return out + self.bias if self.has_bias else out
        return functional.linear(x, self.weight, self.bias)


def product(a_NI: Tensor, b_OI: Tensor) -> Tensor:
    """``a @ b.T`` of two matrices, of any strides; carries no gradient."""
    if _is_ours(a_NI, b_OI):
        out: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            a_NI, b_OI, None, "none", [], ""
        )
        return out
    return a_NI @ b_OI.T


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x.flatten(0, -2), weight).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        d_rows = d_out.flatten(0, -2)
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = product(d_rows, weight.T).view_as(x)
        if ctx.needs_input_grad[1]:
            d_weight = product(d_rows.T, x.flatten(0, -2).T)
        return d_x, d_weight


def _is_ours(*tensors: Tensor) -> bool:
    return _has_onednn() and all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.numel()
        for tensor in tensors
    )


@cache
def _has_onednn() -> bool:
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")
