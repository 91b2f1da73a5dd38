"""Cross-entropy over a large vocabulary without its logits.

Legend: N tokens to predict, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from interloom.training.linear import product


def chunked_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """The sum of ``-log softmax(hidden @ weight.T)[target]`` and each of its terms.

    Logits of ``chunk_tokens`` tokens exist at once; the gradients are made in the same pass, so
    that nothing is computed twice. They are handed on in place: a second backward is refused.

    Returns:
        The sum, and the terms (N,), which carry no gradient; both in fp32.
    """
    given = (hidden_ND, weight_VD, targets_N, chunk_tokens)
    total, losses_N = _ChunkedCrossEntropy.apply(*given)  # type: ignore[no-untyped-call]
    return total, losses_N


class _ChunkedCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_hidden = torch.empty_like(hidden_ND) if needs_gradient else None
        d_weight = None
        losses_N = torch.empty(len(hidden_ND), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), chunk_tokens):
            held = slice(start, start + chunk_tokens)
            part_CD, targets_C1 = hidden_ND[held], targets_N[held, None]
            logits_CV = product(part_CD, weight_VD).float()
            chosen_C1 = logits_CV.gather(1, targets_C1)
            exp_CV, normaliser_C1, losses_N[held] = _softmax(logits_CV, chosen_C1)
            if d_hidden is not None:
                slope_CV = exp_CV.div_(normaliser_C1)
                slope_CV.scatter_add_(1, targets_C1, slope_CV.new_full(targets_C1.shape, -1.0))
                slope_CV = slope_CV.to(hidden_ND.dtype)
                d_hidden[held] = product(slope_CV, weight_VD.T)
                d_part = product(slope_CV.T, part_CD.T).float()
                d_weight = d_part if d_weight is None else d_weight.add_(d_part)
        if needs_gradient and d_weight is None:
            d_weight = torch.zeros_like(weight_VD, dtype=torch.float32)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.mark_non_differentiable(losses_N)
        ctx.weight_dtype = weight_VD.dtype
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, _d_losses: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden.mul_(d_total), d_weight.mul_(d_total).to(ctx.weight_dtype), None, None


def _softmax(logits_CV: Tensor, chosen_C1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exponentials, made in place of the logits, their sums (C, 1), and the losses (C,)."""
    highest_C1 = logits_CV.amax(dim=1, keepdim=True)
    exp_CV = logits_CV.sub_(highest_C1).exp_()
    sums_C1 = exp_CV.sum(dim=1, keepdim=True)
    return exp_CV, sums_C1, (sums_C1.log() + highest_C1 - chosen_C1)[:, 0]
