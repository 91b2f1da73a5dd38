"""The exactly nearest code of each vector. Shapes: N vectors, K codes, D width, P pairs.

A matrix product in a short number format picks for each vector the few codes that can be nearest;
their distances are then computed in fp64. So the code of a vector depends on the vector and the
codebook alone: on no batch, no thread count, no device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 256  # a slice of scores, (256, K), is a few megabytes
_PAIRS = 32_768
_MANY = 64  # candidates a vector, above which the short format is of no use
_BF16, _FP32 = (
    2.0**-7,
    2.0**-9,
)  # on products of unit vectors, rounded up; the latter holds for TF32


@dataclass(frozen=True, slots=True)
class Nearest:
    """What a search found.

    Attributes:
        codes_N: Index of the nearest code; of equal ones the first.
        gaps_N: How much better its score ``z e - |e|^2 / 2`` is than that of the next; infinite
            where the next is further than was asked for. fp64.
    """

    codes_N: Tensor
    gaps_N: Tensor


class CodeSearch:
    """A codebook prepared for look-ups. It does not follow later changes of the codebook."""

    def __init__(self, weight_KD: Tensor) -> None:
        self._weight = weight_KD
        self._centre = weight_KD.mean(0)
        centred = weight_KD - self._centre  # distances stay, and rounding errors shrink
        self._half_norms = 0.5 * centred.square().sum(1)
        self.radius = float((2 * self._half_norms.max()).sqrt()) if len(weight_KD) else 0.0
        self._centred = centred
        self._short = centred.bfloat16() if _has_fast_bf16(weight_KD.device) else None

    def nearest(self, vectors_ND: Tensor, *, within_N: Tensor | None = None) -> Nearest:
        """The nearest codes.

        Args:
            vectors_ND: fp32, finite.
            within_N: Gaps up to these are found, wider ones may be. Default: none need be.
        """
        codes = torch.empty(len(vectors_ND), dtype=torch.long, device=vectors_ND.device)
        gaps = torch.empty(len(vectors_ND), dtype=torch.float64, device=vectors_ND.device)
        for start in range(0, len(vectors_ND), _ROWS):
            part = slice(start, start + _ROWS)
            wanted = None if within_N is None else within_N[part].float()
            found = self._search(vectors_ND[part], wanted)
            codes[part], gaps[part] = found.codes_N, found.gaps_N
        return Nearest(codes, gaps)

    def _search(self, vectors_ND: Tensor, within_N: Tensor | None) -> Nearest:
        """One slice: candidates, then their exact scores."""
        centred = vectors_ND - self._centre
        reach = centred.norm(dim=1) * self.radius
        if self._short is not None:
            product = centred.bfloat16() @ self._short.t()
            candidates = _candidates(product.float().sub_(self._half_norms), reach, within_N, _BF16)
            if len(candidates) <= _MANY * len(vectors_ND):
                return self._best(vectors_ND, candidates)
        scores = torch.addmm(-self._half_norms, centred, self._centred.t())
        return self._best(vectors_ND, _candidates(scores, reach, within_N, _FP32))

    def _best(self, vectors_ND: Tensor, candidates_P2: Tensor) -> Nearest:
        """The best and the gap to the second among candidates, sorted by vector and code."""
        rows, codes = candidates_P2.unbind(1)
        scores = torch.cat(
            [
                self._exact(vectors_ND, candidates_P2[start : start + _PAIRS])
                for start in range(0, max(1, len(candidates_P2)), _PAIRS)
            ]
        )
        best = _reduced(scores, rows, len(vectors_ND), "amax")
        is_best = scores == best[rows]
        size = len(self._weight)
        chosen = _reduced(codes.masked_fill(~is_best, size), rows, len(vectors_ND), "amin")
        others = scores.masked_fill(codes == chosen[rows], -torch.inf)
        second = _reduced(others, rows, len(vectors_ND), "amax")
        return Nearest(chosen, best - second)

    def _exact(self, vectors_ND: Tensor, pairs_P2: Tensor) -> Tensor:
        """Minus half the squared distance of each pair, in fp64."""
        rows, codes = pairs_P2.unbind(1)
        apart = vectors_ND[rows].double() - self._weight[codes].double()
        return apart.square_().sum(1).mul_(-0.5)


def _candidates(
    scores_NK: Tensor, reach_N: Tensor, within_N: Tensor | None, precision: float
) -> Tensor:
    """Pairs (vector, code) that may be best, or within what was asked for; (P, 2)."""
    slack = 2 * precision * reach_N
    if within_N is not None:
        slack = slack + within_N
    least = scores_NK.amax(1) - slack
    return (scores_NK >= least[:, None]).nonzero()


def _reduced(values_P: Tensor, rows_P: Tensor, num_rows: int, how: str) -> Tensor:
    """The largest or smallest value of each row; zero for a row that is not finite."""
    out = torch.zeros(num_rows, dtype=values_P.dtype, device=values_P.device)
    return out.scatter_reduce_(0, rows_P, values_P, how, include_self=False)


def _has_fast_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bf16 in hardware; others are faster in fp32."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return device.type == "cpu" and bool(supported())
