"""Where rows of joint ids are cut into patches.

Legend: B rows, T tokens of a row, N of all rows, R runs, M patches of all rows, P patches of the
row that has most.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interloom.core.errors import ConfigError
from interloom.mixture.alignment import Begin, Begins

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """The patches of all rows, row after row.

    Attributes:
        lengths_M: Tokens of each; they sum to all tokens.
        is_whole_M: Whether it has all the tokens that its kind of patch can have. A word never has:
            that it is over is known only from what follows.
        is_aligned_M: Whether it is a word or a silence.
    """

    lengths_M: Counts
    is_whole_M: Flags
    is_aligned_M: Flags


def cut(
    is_speech_BT: Flags,
    segments_BT: Numbers,
    size: int,
    begins_BT: Begins | None = None,
    *,
    merges_silence: bool = False,
) -> Cuts:
    """Cut runs of speech into words and silences, or every ``size`` tokens (spec 7.3).

    All that is not speech is a patch of one; no patch holds two modalities or documents. Static
    cuts depend on nothing after them: rows that are equal up to a token are cut alike up to there.

    Args:
        is_speech_BT: Which tokens are speech codes; markers are not.
        segments_BT: The document of each token, at least 0; documents lie in one piece.
        size: p. What is left at the end of a run, or a run shorter than that, is a short patch.
        begins_BT: What begins with a token. A word or a silence is one patch, of any length; all
            else, such as a run without alignment, is cut every ``size`` tokens.
        merges_silence: A silence belongs to the word before it, or to the first one after it.

    Raises:
        ConfigError: ``size`` is below 1.
    """
    if size < 1:
        raise ConfigError(f"a patch holds at least 1 speech token, got {size}")
    is_speech_N = is_speech_BT.ravel()
    begins_run_N = _begins_document(segments_BT).ravel()
    begins_run_N[1:] |= is_speech_N[1:] != is_speech_N[:-1]
    begins_N = None if begins_BT is None else begins_BT.ravel()
    if begins_N is not None:
        begins_N = _merged(begins_N, begins_run_N) if merges_silence else begins_N
        begins_run_N |= begins_N != Begin.NOTHING
    starts_R = np.flatnonzero(begins_run_N)
    runs_R = np.diff(starts_R, append=is_speech_N.size)
    limit_R = np.where(is_speech_N[starts_R], size, 1)
    is_aligned_R = np.zeros(len(starts_R), np.bool_)
    if begins_N is not None:
        is_aligned_R = np.isin(begins_N[starts_R], (Begin.WORD, Begin.SILENCE))
        limit_R = np.where(is_aligned_R, runs_R, limit_R)
    return _cut_runs(runs_R, limit_R, is_aligned_R)


def _cut_runs(runs_R: Counts, limit_R: Counts, is_aligned_R: Flags) -> Cuts:
    """Patches of at most so many tokens of each run."""
    count_R = (runs_R + limit_R - 1) // limit_R
    last_R = np.cumsum(count_R) - 1
    rest_R = runs_R - (count_R - 1) * limit_R
    lengths_M = np.repeat(limit_R, count_R)
    lengths_M[last_R] = rest_R
    is_whole_M = np.ones(len(lengths_M), np.bool_)
    is_whole_M[last_R] = (rest_R == limit_R) & ~is_aligned_R
    is_aligned_M = np.zeros(len(lengths_M), np.bool_)
    is_aligned_M[last_R] = is_aligned_R
    return Cuts(lengths_M, is_whole_M, is_aligned_M)


def _merged(begins_N: Begins, begins_run_N: Flags) -> Begins:
    """What begins, without silences but those at the start of an utterance, which take a word."""
    is_silence_N = begins_N == Begin.SILENCE
    held_N = np.where(is_silence_N & ~begins_run_N, Begin.NOTHING, begins_N).astype(np.uint8)
    places = np.flatnonzero(held_N)
    leads = np.flatnonzero(held_N[places] == Begin.SILENCE)
    held_N[places[leads + 1]] = Begin.NOTHING
    return held_N


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

    @classmethod
    def of(cls, cuts: Cuts, segments_BT: Numbers) -> "Patches":
        """The patches of rows that were cut."""
        rows, length = segments_BT.shape
        stops_M = np.cumsum(cuts.lengths_M)
        starts_M = stops_M - cuts.lengths_M
        row_M = starts_M // length
        first_B = np.searchsorted(starts_M, np.arange(rows) * length)
        place_M = np.arange(len(starts_M)) - first_B[row_M]
        begins_M = _begins_document(segments_BT).ravel()[starts_M]
        first_M = np.maximum.accumulate(np.where(begins_M, np.arange(len(starts_M)), 0))
        shape = (rows, int(place_M.max()) + 1)
        segments_BP, positions_BP = np.full(shape, -1), np.zeros(shape, np.int64)
        segments_BP[row_M, place_M] = segments_BT.ravel()[starts_M]
        positions_BP[row_M, place_M] = np.arange(len(starts_M)) - first_M
        is_closed_N = np.zeros(rows * length, np.bool_)
        is_closed_N[stops_M[cuts.is_whole_M] - 1] = True
        number_N = np.repeat(place_M, cuts.lengths_M)
        return cls(
            torch.from_numpy(number_N.reshape(rows, length)),
            torch.from_numpy(is_closed_N.reshape(rows, length)),
            torch.from_numpy(segments_BP),
            torch.from_numpy(positions_BP),
        )

    def to(self, device: torch.device) -> "Patches":
        """The same there."""
        return Patches(
            self.number_BT.to(device),
            self.is_closed_BT.to(device),
            self.segments_BP.to(device),
            self.positions_BP.to(device),
        )


def static_patches(is_speech_BT: Tensor, segments_BT: Tensor, size: int) -> Patches:
    """Rows of tensors cut every ``size`` tokens of speech; lies where they do.

    Raises:
        ConfigError: ``size`` is below 1.
    """
    segments = segments_BT.cpu().numpy()
    return Patches.of(cut(is_speech_BT.cpu().numpy(), segments, size), segments).to(
        segments_BT.device
    )


def _begins_document(segments_BT: Numbers) -> Flags:
    """The first token of each document, (B, T)."""
    begins = np.ones(segments_BT.shape, np.bool_)
    np.not_equal(segments_BT[:, 1:], segments_BT[:, :-1], out=begins[:, 1:])
    return begins
