"""Which output a slot takes: the best, or one of a nucleus. S = slots, K = outputs."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interloom.core.errors import DataError

_LIKELY = 64  # outputs among which a nucleus is first looked for


def choose(
    logits_SK: Tensor,
    draws_S: NDArray[np.float64],
    temperatures_S: NDArray[np.float64],
    top_ps_S: NDArray[np.float64],
) -> NDArray[np.int64]:
    """One output a slot; each row depends on its own logits and numbers only.

    Raises:
        DataError: A logit is not a number.
    """
    best, indices = logits_SK.max(-1)
    if not np.isfinite(best.numpy()).all():
        raise DataError(
            "the text-to-token model's outputs are not finite, so its weights are broken; "
            "train it again with a lower learning_rate"
        )
    chosen: NDArray[np.int64] = indices.numpy()
    warm = np.flatnonzero(temperatures_S > 0)
    if len(warm):
        scaled = logits_SK[warm].double() / torch.from_numpy(temperatures_S[warm, None])
        chosen[warm] = _from_nucleus(scaled.softmax(-1), draws_S[warm], top_ps_S[warm])
    return chosen


def _from_nucleus(
    probabilities_SK: Tensor, draws_S: NDArray[np.float64], top_ps_S: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Look among the likeliest; sort all outputs of those rows only whose nucleus is larger."""
    size = min(_LIKELY, probabilities_SK.shape[1])
    likely, order = probabilities_SK.topk(size, dim=-1)
    chosen = _pick(likely, order, draws_S, top_ps_S)
    wide = np.flatnonzero(likely.sum(-1).numpy() < top_ps_S)
    if size < probabilities_SK.shape[1] and len(wide):
        likely, order = torch.sort(probabilities_SK[wide], dim=-1, descending=True, stable=True)
        chosen[wide] = _pick(likely, order, draws_S[wide], top_ps_S[wide])
    return chosen


def _pick(
    likely_SK: Tensor,
    order_SK: Tensor,
    draws_S: NDArray[np.float64],
    top_ps_S: NDArray[np.float64],
) -> NDArray[np.int64]:
    """The output at each draw within the nucleus, whose outputs come in falling order."""
    reached = likely_SK.cumsum(-1).numpy()
    kept = 1 + (reached < top_ps_S[:, None]).sum(-1).clip(max=reached.shape[1] - 1)
    mass = np.take_along_axis(reached, kept[:, None] - 1, axis=-1)[:, 0]
    rank = np.minimum((reached < (draws_S * mass)[:, None]).sum(-1), kept - 1)
    return np.take_along_axis(order_SK.numpy(), rank[:, None], axis=-1)[:, 0]
