"""Packed rows as the model reads them.

Legend: B rows, L tokens of a row, T tokens of one without padding, S its pieces of documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.mixture.alignment import Begins
from interloom.mixture.examples import Ids, Mask


@dataclass(frozen=True, slots=True, eq=False)
class RowBatch:
    """Rows as the model wants them.

    Attributes:
        tokens_BL: Joint ids; the padding id after the last document.
        segments_BL: Which document of the row a token belongs to, from 0; padding has the next one.
        positions_BL: Place within the document, from 0.
        is_target_BL: Tokens to predict; never the first of a document, never padding.
        sources_BL: Index into the source names; of padding, that of the last document.
        begins_BL: Which words and silences begin with a token; None if the rows do not say.
    """

    tokens_BL: Ids
    segments_BL: Ids
    positions_BL: Ids
    is_target_BL: Mask
    sources_BL: Ids
    begins_BL: Begins | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PackedRow:
    """One row without its padding, beside its tokens.

    Attributes:
        is_target_T: Tokens to predict.
        lengths_S: Tokens of each piece.
        sources_S: Its source.
        begins_T: Which words and silences begin; None if that is not known.
    """

    is_target_T: Mask
    lengths_S: NDArray[np.int32]
    sources_S: NDArray[np.int16]
    begins_T: Begins | None = None


def batch_of(tokens_BL: Ids, rows: Sequence[PackedRow]) -> RowBatch:
    """Lay out rows whose tokens are in place already, padded."""
    shape = tokens_BL.shape
    is_target = np.zeros(shape, np.bool_)
    segments, positions, sources = (np.empty(shape, np.int32) for _ in range(3))
    begins = np.zeros(shape, np.uint8) if any(row.begins_T is not None for row in rows) else None
    for place, row in enumerate(rows):
        filled = len(row.is_target_T)
        is_target[place, :filled] = row.is_target_T
        if begins is not None and row.begins_T is not None:
            begins[place, :filled] = row.begins_T
        lengths = np.append(row.lengths_S, shape[1] - filled)
        starts = np.cumsum(lengths) - lengths
        segments[place] = np.repeat(np.arange(len(lengths)), lengths)
        positions[place] = np.arange(shape[1]) - np.repeat(starts, lengths)
        sources[place] = np.repeat(np.append(row.sources_S, row.sources_S[-1]), lengths)
    return RowBatch(tokens_BL, segments, positions, is_target, sources, begins)
