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
        starts_D, lengths_D = _runs(segments_BT.cpu())
        padded_D = _padded(lengths_D)
        groups: list[Tensor] = []
        back = torch.empty(segments_BT.numel(), dtype=torch.int64)
        first = 0
        for size in sorted(set(padded_D.tolist())):
            own = padded_D == size
            places_DL, is_real_DL = _places(starts_D[own], lengths_D[own], size)
            back[places_DL[is_real_DL]] = _numbers(places_DL, first)[is_real_DL]
            groups.append(places_DL.to(segments_BT.device))
            first += places_DL.numel()
        return cls(tuple(groups), back.to(segments_BT.device))


Sight = Tensor | Documents
"""Which queries see which keys: a mask (B or 1, 1, T, S), each query seeing one; or documents."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """One of two sequences that hold the same documents in the same order.

    Attributes:
        segments: The document of each element, (B, S); below 0 for those of none, which come last.
        ranks: What sight is told by, (B, S).
    """

    segments: Tensor
    ranks: Tensor

    def documents(self) -> tuple[Tensor, Tensor]:
        """First elements (D,) among all B S, and lengths (D,)."""
        segments = self.segments.cpu()
        starts_D, lengths_D = _runs(segments)
        is_one_D = segments.flatten()[starts_D] >= 0
        return starts_D[is_one_D], lengths_D[is_one_D]


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """Elements of one sequence see some of the other's in their document, as blocks.

    As with ``Documents``, a document is padded to lengths that hang on its own alone.

    Attributes:
        groups: For each pair of padded lengths, places (D, L) of the documents' queries among all
            B T, places (D, M) of their keys among all B S, and who sees whom, (D, 1, L, M).
        back: Where each of the B T queries lies in the groups, one after the other; what is of no
            document lies after them all.
    """

    groups: tuple[tuple[Tensor, Tensor, Tensor], ...]
    back: Tensor

    @classmethod
    def of(cls, queries: Ranked, keys: Ranked, window: int) -> "Crossing":
        """A query sees the keys of its document, from its own rank to ``window`` - 1 before it."""
        device = queries.segments.device
        (starts_D, lengths_D), (starts_E, lengths_E) = queries.documents(), keys.documents()
        query_ranks, key_ranks = queries.ranks.cpu().flatten(), keys.ranks.cpu().flatten()
        padded_D2 = torch.stack([_coarse(lengths_D), _coarse(lengths_E)], dim=1)
        groups: list[tuple[Tensor, Tensor, Tensor]] = []
        back = torch.full((queries.segments.numel(),), -1)
        first = 0
        for sizes in sorted({tuple(pair) for pair in padded_D2.tolist()}):
            own = (padded_D2 == torch.tensor(sizes)).all(dim=1)
            places_DL, is_real_DL = _places(starts_D[own], lengths_D[own], sizes[0])
            places_DM, is_real_DM = _places(starts_E[own], lengths_E[own], sizes[1])
            behind_DLM = query_ranks[places_DL][:, :, None] - key_ranks[places_DM][:, None, :]
            mask_DLM = (behind_DLM >= 0) & (behind_DLM < window) & is_real_DM[:, None, :]
            back[places_DL[is_real_DL]] = _numbers(places_DL, first)[is_real_DL]
            groups.append(
                (places_DL.to(device), places_DM.to(device), mask_DLM[:, None].to(device))
            )
            first += places_DL.numel()
        return cls(tuple(groups), back.where(back >= 0, first).to(device))


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


def _runs(segments_BT: Tensor) -> tuple[Tensor, Tensor]:
    """First elements (D,) among all B T, and lengths (D,), of runs of equal numbers in a row."""
    begins_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    begins_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    starts_D = begins_BT.flatten().nonzero()[:, 0]
    lengths_D = starts_D.diff(append=torch.tensor([begins_BT.numel()]))
    return starts_D, lengths_D


def _places(starts_D: Tensor, lengths_D: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Elements (D, L) of documents that are padded to L by their last, and which are real."""
    offsets_DL = torch.arange(size).expand(len(starts_D), size)
    last_D1 = lengths_D[:, None] - 1
    return starts_D[:, None] + offsets_DL.minimum(last_D1), offsets_DL <= last_D1


def _numbers(places_DL: Tensor, first: int) -> Tensor:
    """Their own places in the groups, one after the other."""
    return torch.arange(places_DL.numel()).view_as(places_DL) + first


def _coarse(lengths_D: Tensor) -> Tensor:
    """Lengths, rounded up to a multiple of 32, so that few pairs of them are different."""
    return _padded((lengths_D + 31) // 32 * 32)


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
