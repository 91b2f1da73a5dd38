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
    cuts = static_cuts(is_speech_BT, segments_BT, size)
    number_M = torch.arange(len(cuts.lengths_M), device=cuts.lengths_M.device)
    number_N = number_M.repeat_interleave(cuts.lengths_M, output_size=is_speech_BT.numel())
    starts_M = cuts.lengths_M.cumsum(0) - cuts.lengths_M
    is_closed_N = torch.zeros_like(is_speech_BT).flatten()
    is_closed_N[(starts_M + cuts.lengths_M - 1)[cuts.is_whole_M]] = True
    return _by_row(
        number_N.view(is_speech_BT.shape), is_closed_N.view(is_speech_BT.shape), segments_BT
    )


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """The M patches of all rows, row after row.

    Attributes:
        lengths_M: Tokens of each; they sum to all tokens.
        is_whole_M: Whether it has all the tokens that its kind of patch can have.
    """

    lengths_M: Tensor
    is_whole_M: Tensor


def static_cuts(is_speech_BT: Tensor, segments_BT: Tensor, size: int) -> Cuts:
    """The same as lengths alone; R runs of one modality in one document.

    Raises:
        ConfigError: ``size`` is below 1.
    """
    if size < 1:
        raise ConfigError(f"a patch holds at least 1 speech token, got {size}")
    is_speech_N = is_speech_BT.flatten()
    begins_run = _begins_document(segments_BT).flatten()
    begins_run[1:] |= is_speech_N[1:] != is_speech_N[:-1]
    starts_R = begins_run.nonzero()[:, 0]
    runs_R = starts_R.diff(append=starts_R.new_tensor([len(is_speech_N)]))
    limit_R = torch.where(is_speech_N[starts_R], size, 1)
    count_R = (runs_R + limit_R - 1) // limit_R
    last_R = count_R.cumsum(0) - 1
    rest_R = runs_R - (count_R - 1) * limit_R
    lengths_M = limit_R.repeat_interleave(count_R, output_size=int(last_R[-1]) + 1)
    lengths_M[last_R] = rest_R
    is_whole_M = torch.ones_like(lengths_M, dtype=torch.bool)
    is_whole_M[last_R] = rest_R == limit_R
    return Cuts(lengths_M, is_whole_M)


def _begins_document(segments_BT: Tensor) -> Tensor:
    """The first token of each document, (B, T)."""
    begins = torch.ones_like(segments_BT, dtype=torch.bool)
    begins[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return begins


def _by_row(number_BT: Tensor, is_closed_BT: Tensor, segments_BT: Tensor) -> Patches:
    """Patches counted in each row for itself, rows of as many patches as the longest has."""
    number_BT = number_BT - number_BT[:, :1]
    shape = (len(number_BT), int(number_BT[:, -1].max()) + 1)
    first_BT = torch.where(_begins_document(segments_BT), number_BT, 0).cummax(dim=1).values
    segments_BP = number_BT.new_full(shape, -1).scatter(1, number_BT, segments_BT.long())
    positions_BP = number_BT.new_zeros(shape).scatter(1, number_BT, number_BT - first_BT)
    return Patches(number_BT, is_closed_BT, segments_BP, positions_BP)
