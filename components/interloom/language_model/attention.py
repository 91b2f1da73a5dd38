"""Attention through one function, and the cache of keys and values for generation.

Legend: B rows, T queries, S keys, H query heads, G key-value heads, E channels, D documents, L
tokens of a document with its padding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """Each token sees itself and those before it in its document: packed rows, as blocks.

    Documents of about one length are attended to together, so that the work grows with the square
    of the documents' lengths rather than of the rows', and no mask is made. A document is padded
    to a length that hangs on its own alone: no bit of it changes with what stands beside it.

    Attributes:
        groups: For each padded length L, places (D, L) of the documents' tokens among all B T;
            padding repeats a document's last token, which nothing looks at.
        back: Where each of the B T tokens lies in the groups, one after the other.
    """

    groups: tuple[Tensor, ...]
    back: Tensor

    @classmethod
    def of(cls, segments_BT: Tensor) -> "Documents":
        """The documents of packed rows: runs of equal numbers within a row."""
        begins_BT = torch.ones_like(segments_BT, dtype=torch.bool, device="cpu")
        begins_BT[:, 1:] = (segments_BT[:, 1:] != segments_BT[:, :-1]).cpu()
        starts_D = begins_BT.flatten().nonzero()[:, 0]
        lengths_D = starts_D.diff(append=torch.tensor([begins_BT.numel()]))
        padded_D = _padded(lengths_D)
        groups: list[Tensor] = []
        back = torch.empty(begins_BT.numel(), dtype=torch.int64)
        first = 0
        for size in sorted(set(padded_D.tolist())):
            own = padded_D == size
            offsets_DL = torch.arange(size).expand(int(own.sum()), size)
            last_D1 = lengths_D[own, None] - 1
            places_DL = starts_D[own, None] + offsets_DL.minimum(last_D1)
            is_real_DL = offsets_DL <= last_D1
            number_DL = torch.arange(places_DL.numel()).view_as(places_DL) + first
            back[places_DL[is_real_DL]] = number_DL[is_real_DL]
            groups.append(places_DL.to(segments_BT.device))
            first += places_DL.numel()
        return cls(tuple(groups), back.to(segments_BT.device))


Sight = Tensor | Documents
"""Which queries see which keys: a mask (B or 1, 1, T, S), each query seeing one; or documents."""


def attend(q_BHTE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, sight: Sight) -> Tensor:
    """Scaled dot-product attention.

    Packing and causality are in ``sight`` alone: neither positions nor a flag isolate documents.

    Args:
        q_BHTE: Queries.
        k_BGSE: Keys; G divides H.
        v_BGSE: Values.
        sight: What each query sees.

    Returns:
        (B, H, T, E).
    """
    has_groups = q_BHTE.shape[1] > k_BGSE.shape[1]
    if isinstance(sight, Tensor):
        return functional.scaled_dot_product_attention(
            q_BHTE, k_BGSE, v_BGSE, attn_mask=sight, enable_gqa=has_groups
        )
    if len(sight.groups) == 1 and sight.groups[0].shape == q_BHTE.shape[::2]:
        return functional.scaled_dot_product_attention(
            q_BHTE, k_BGSE, v_BGSE, is_causal=True, enable_gqa=has_groups
        )
    query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTE, k_BGSE, v_BGSE))
    seen = [
        functional.scaled_dot_product_attention(
            _gathered(query, places_DL),
            _gathered(key, places_DL),
            _gathered(value, places_DL),
            is_causal=True,
            enable_gqa=has_groups,
        )
        .transpose(1, 2)
        .flatten(0, 1)
        for places_DL in sight.groups
    ]
    rows, heads, length, size = q_BHTE.shape
    seen_THE = torch.cat(seen).index_select(0, sight.back)
    return seen_THE.view(rows, length, heads, size).transpose(1, 2)


def _gathered(x_THE: Tensor, places_DL: Tensor) -> Tensor:
    """Tokens of documents side by side, (D, H, L, E)."""
    held = x_THE.index_select(0, places_DL.flatten())
    return held.view(*places_DL.shape, *x_THE.shape[1:]).transpose(1, 2)


def _padded(lengths_D: Tensor) -> Tensor:
    """Lengths, rounded up to a multiple of 8, or to eight steps in each power of two over 128."""
    powers_D = torch.ceil(torch.log2(lengths_D.double())).long().clamp(min=7)
    steps_D = 2 ** (powers_D - 4)
    return torch.ceil(lengths_D / steps_D).long() * steps_D


class KeyValueCache:
    """Keys and values of one layer for rows of different lengths.

    ``places_BT`` says where the next keys and values are written; ``rows_B``, if it is set, that
    they are of these rows alone.
    """

    def __init__(self, shape_BGSE: tuple[int, int, int, int]) -> None:
        self.keys = torch.zeros(shape_BGSE)
        self.values = torch.zeros(shape_BGSE)
        self.places_BT = torch.zeros((shape_BGSE[0], 0), dtype=torch.int64)
        self.rows_B: Tensor | None = None

    def extend(self, k_BGTE: Tensor, v_BGTE: Tensor) -> tuple[Tensor, Tensor]:
        """Write at ``places_BT``; returns all keys and values (B, G, S, E), written or not."""
        rows_B = torch.arange(len(k_BGTE)) if self.rows_B is None else self.rows_B
        self.keys[rows_B[:, None], :, self.places_BT] = k_BGTE.transpose(1, 2)
        self.values[rows_B[:, None], :, self.places_BT] = v_BGTE.transpose(1, 2)
        if self.rows_B is None:
            return self.keys, self.values
        return self.keys[self.rows_B], self.values[self.rows_B]

    @property
    def capacity(self) -> int:
        """S."""
        return self.keys.shape[2]

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but these."""
        self.keys, self.values = self.keys[rows], self.values[rows]
