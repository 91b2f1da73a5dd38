"""Products with weights that stay as they are, each with what follows it.

torch multiplies fp32 matrices by MKL, which holds back on processors of another maker. oneDNN does
not, takes weights that were laid out for it once, and applies what follows while the product is
still in registers. A row of a product depends on that row alone, for a given number of rows.

Legend: X rows, I inputs, O outputs.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


class Weight:
    """A matrix to multiply by, (O, I): laid out anew if it is fp32 on a processor."""

    def __init__(self, weight_OI: Tensor, *, num_rows: int, bias_O: Tensor | None = None) -> None:
        """``num_rows`` is the usual X, for which the layout is chosen; any other works too."""
        self._weight = weight_OI.detach()
        self._bias = None if bias_O is None else bias_O.detach()
        self._packed: Tensor | None = None
        is_plain = weight_OI.dtype == torch.float32 and weight_OI.device.type == "cpu"
        if is_plain and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            pack = torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001
            self._packed = pack(self._weight.contiguous(), num_rows)

    def times(self, x_XI: Tensor, then: Literal["none", "swish"] = "none") -> Tensor:
        """``x @ weight.T + bias``, or its SiLU, (X, O)."""
        if self._packed is None:
            out = functional.linear(x_XI, self._weight, self._bias)
            return functional.silu(out) if then == "swish" else out
        product = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
        made: Tensor = product(x_XI, self._packed, self._bias, then, [], "")
        return made

    def times_with(self, x_XI: Tensor, other_XO: Tensor, how: Literal["add", "mul"]) -> Tensor:
        """``x @ weight.T + bias``, added to or multiplied by another matrix, (X, O)."""
        if self._packed is None:
            out = functional.linear(x_XI, self._weight, self._bias)
            return other_XO + out if how == "add" else other_XO * out
        product = torch.ops.mkldnn._linear_pointwise.binary  # noqa: SLF001
        made: Tensor = product(x_XI, other_XO, self._packed, self._bias, how)
        return made
