"""Who sees whom: documents of packed rows as blocks, or a mask.

Legend: B rows, T queries, S keys, D and E documents, L and M elements of a document with padding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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
