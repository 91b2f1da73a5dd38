"""Which documents of training are cut at words, and which every so many tokens.

Legend: B rows, L tokens of a row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.config.patches import PatchConfig
from interloom.language_model.patches.cutting import Cuts, Flags, Patches, cut
from interloom.mixture.alignment import Begin, Begins
from interloom.mixture.batches import RowBatch

_STREAM = 0x7061746368  # keeps these draws apart from all others of the seed


@dataclass(frozen=True, slots=True, eq=False)
class CutRows:
    """Rows and their patches.

    Attributes:
        patches: For the model.
        counts: Sums with what to divide them by, as curves have them: ``patches/length``, tokens
            of a patch of speech; ``patches/aligned``, the part of speech that lies in words and
            silences; ``patches/partial``, the part of static patches that are short, as at the
            ends of runs; ``patches/unaligned``, the part of utterances that were to be aligned
            and could not, which are static.
    """

    patches: Patches
    counts: dict[str, float]


@dataclass(frozen=True, slots=True)
class RowCutter:
    """Cuts rows of training by their global index and the seed: there is no state to save.

    Attributes:
        config: Laid over the rows of the training.
        speech_offset: Ids from here on are speech codes.
        seed: Of the draws.
    """

    config: PatchConfig
    speech_offset: int
    seed: int

    def cut(self, batch: RowBatch, first: int) -> CutRows:
        """Cut the rows whose global indices begin with ``first``."""
        is_speech_BL = batch.tokens_BL >= self.speech_offset
        asked_BL = self._asked(batch, first)
        begins_BL = self._begins(batch, asked_BL)
        cuts = cut(
            is_speech_BL,
            batch.segments_BL,
            self.config.size,
            begins_BL,
            merges_silence=self.config.silence == "merged",
        )
        asked = asked_BL & _begins_run(is_speech_BL, batch.segments_BL)
        missing = asked if begins_BL is None else asked & (begins_BL == Begin.NOTHING)
        counts = _counts(cuts, is_speech_BL, self.config.size) | {
            "patches/unaligned": float(missing.sum()),
            "patches/unaligned/weight": float(asked.sum()),
        }
        return CutRows(Patches.of(cuts, batch.segments_BL), counts)

    def _asked(self, batch: RowBatch, first: int) -> Flags:
        """Which tokens are of documents that are to be cut at words: a draw for each document."""
        asked = np.zeros(batch.segments_BL.shape, np.bool_)
        for place, segments_L in enumerate(batch.segments_BL):
            share = self.config.share_aligned(first + place)
            if share > 0:
                stream = np.random.Philox(key=[self.seed, _STREAM], counter=first + place)
                draws = np.random.Generator(stream).random(int(segments_L[-1]) + 1)
                asked[place] = (draws < share)[segments_L]
        return asked

    def _begins(self, batch: RowBatch, asked_BL: Flags) -> Begins | None:
        """What begins in the documents that are to be aligned."""
        if batch.begins_BL is None or not asked_BL.any():
            return None
        return np.where(asked_BL, batch.begins_BL, Begin.NOTHING).astype(np.uint8)


def _begins_run(is_speech_BL: Flags, segments_BL: NDArray[np.int32]) -> Flags:
    """The first tokens of utterances."""
    begins = is_speech_BL.copy()
    same = segments_BL[:, 1:] == segments_BL[:, :-1]
    begins[:, 1:] &= ~(is_speech_BL[:, :-1] & same)
    return begins


def _counts(cuts: Cuts, is_speech_BL: Flags, size: int) -> dict[str, float]:
    """What became of the speech of these rows."""
    starts_M = np.cumsum(cuts.lengths_M) - cuts.lengths_M
    own_M = is_speech_BL.ravel()[starts_M]
    is_static_M = own_M & ~cuts.is_aligned_M
    tokens, patches = float(is_speech_BL.sum()), float(own_M.sum())
    return {
        "patches/length": tokens,
        "patches/length/weight": patches,
        "patches/aligned": float(cuts.lengths_M[cuts.is_aligned_M].sum()),
        "patches/aligned/weight": tokens,
        "patches/partial": float((is_static_M & (cuts.lengths_M < size)).sum()),
        "patches/partial/weight": float(is_static_M.sum()),
    }
