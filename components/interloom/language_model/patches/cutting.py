"""Where rows of joint ids are cut into patches.

Legend: B rows, T tokens, P patches of the row that has most.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from interloom.core.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Rows cut into patches, none across documents or modalities.

    Attributes:
        number_BT: Which patch of its row each token is in, from 0 without a gap.
        is_closed_BT: Whether a token ends its patch as far as can be told when it is read. The
            short patch at the end of a run of speech is not closed by its own tokens: that the run
            is over is known only from what follows.
        segments_BP: The document of each patch; -1 past a row's last.
        positions_BP: Its place among the patches of its document; 0 past a row's last.
    """

    number_BT: Tensor
    is_closed_BT: Tensor
    segments_BP: Tensor
    positions_BP: Tensor

    @property
    def num_patches(self) -> int:
        """P."""
        return self.segments_BP.shape[1]

    @property
    def num_seen(self) -> Tensor:
        """How many of its row's first patches are complete when a token has been read."""
        return self.number_BT + self.is_closed_BT


def static_patches(is_speech_BT: Tensor, segments_BT: Tensor, size: int) -> Patches:
    """Cut each run of speech every ``size`` tokens; all else is a patch of one (spec 7.3).

    A cut depends on nothing after it: rows that are equal up to a token are cut alike up to there.

    Args:
        is_speech_BT: Which tokens are speech codes; markers are not.
        segments_BT: The document of each token, at least 0; documents lie in one piece.
        size: p.

    Raises:
        ConfigError: ``size`` is below 1.
    """
    if size < 1:
        raise ConfigError(f"a patch holds at least 1 speech token, got {size}")
    places_T = torch.arange(is_speech_BT.shape[1], device=is_speech_BT.device)
    begins_document = torch.ones_like(is_speech_BT)
    begins_document[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    follows_speech = torch.zeros_like(is_speech_BT)
    follows_speech[:, 1:] = is_speech_BT[:, :-1]
    begins_run = is_speech_BT & (begins_document | ~follows_speech)
    offset_BT = places_T - _last_seen(begins_run, places_T)
    begins = ~is_speech_BT | (offset_BT % size == 0)
    is_closed = ~is_speech_BT | (offset_BT % size == size - 1)
    number_BT = begins.cumsum(dim=1) - 1
    return _patches(number_BT, is_closed, segments_BT, begins_document)


def patch_lengths(patches: Patches) -> Tensor:
    """Tokens of each patch, (B, P); they sum to T, and past a row's last patch they are 0."""
    lengths = torch.zeros_like(patches.segments_BP)
    return lengths.scatter_add(1, patches.number_BT, torch.ones_like(patches.number_BT))


def _patches(
    number_BT: Tensor, is_closed_BT: Tensor, segments_BT: Tensor, begins_document_BT: Tensor
) -> Patches:
    """Carry documents and places over from tokens to patches."""
    shape = (len(number_BT), int(number_BT[:, -1].max()) + 1)
    first_BT = _last_seen(begins_document_BT, number_BT)
    segments_BP = number_BT.new_full(shape, -1).scatter(1, number_BT, segments_BT.long())
    positions_BP = number_BT.new_zeros(shape).scatter(1, number_BT, number_BT - first_BT)
    return Patches(number_BT, is_closed_BT, segments_BP, positions_BP)


def _last_seen(is_mark_BT: Tensor, values: Tensor) -> Tensor:
    """The value at the last mark up to each token, for values that never fall along a row."""
    return torch.where(is_mark_BT, values, 0).cummax(dim=1).values
