"""Attention through one function, and the cache of keys and values for generation.

Legend: B rows, T queries, S keys, H query heads, G key-value heads, E channels.
"""

import torch
from torch import Tensor
from torch.nn import functional


def attend(q_BHTE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention.

    Packing and causality are in the mask alone: neither positions nor a flag isolate documents.

    Args:
        q_BHTE: Queries.
        k_BGSE: Keys; G divides H.
        v_BGSE: Values.
        mask: True where a query sees a key, (B or 1, 1, T, S). Each query sees at least one.

    Returns:
        (B, H, T, E).
    """
    groups = q_BHTE.shape[1] // k_BGSE.shape[1]
    if groups > 1:
        k_BGSE = k_BGSE.repeat_interleave(groups, dim=1)
        v_BGSE = v_BGSE.repeat_interleave(groups, dim=1)
    return functional.scaled_dot_product_attention(q_BHTE, k_BGSE, v_BGSE, attn_mask=mask)


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
