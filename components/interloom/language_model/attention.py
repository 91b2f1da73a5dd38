"""Attention through one function, and the cache of keys and values for generation.

Legend: B rows, T queries, S keys, H query heads, G key-value heads, E channels, D documents, L
elements of a document with its padding.
"""

import torch
from torch import Tensor
from torch.nn import functional

from interloom.language_model.sight import Crossing, Sight


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


def attend_across(q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, crossing: Crossing) -> Tensor:
    """As ``attend``, between two sequences; a query that sees nothing finds zeros."""
    query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTE, k_BHSE, v_BHSE))
    found = []
    for places_DL, places_DM, mask_D1LM in crossing.groups:
        sees_D1L1 = mask_D1LM.any(dim=-1, keepdim=True)
        found_DHLE = functional.scaled_dot_product_attention(
            _gathered(query, places_DL),
            _gathered(key, places_DM),
            _gathered(value, places_DM),
            attn_mask=mask_D1LM | ~sees_D1L1,
        )
        found.append((found_DHLE * sees_D1L1).transpose(1, 2).flatten(0, 1))
    found.append(torch.zeros_like(query[:1]))
    rows, heads, length, size = q_BHTE.shape
    found_THE = torch.cat(found).index_select(0, crossing.back)
    return found_THE.view(rows, length, heads, size).transpose(1, 2)


def _gathered(x_THE: Tensor, places_DL: Tensor) -> Tensor:
    """Tokens of documents side by side, (D, H, L, E)."""
    held = x_THE.index_select(0, places_DL.flatten())
    return held.view(*places_DL.shape, *x_THE.shape[1:]).transpose(1, 2)


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
