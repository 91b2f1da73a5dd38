"""One document as the language model will read it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interloom.mixture.alignment import Begins

Ids = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Joint ids, and which of them the model is asked to predict.

    Attributes:
        id: Unique in its source; named in reports.
        ids_T: Joint ids.
        is_target_T: Where the loss is taken. The first token has no predecessor: never a target.
        licence: SPDX tag.
        begins_T: What begins with a token; None where nobody asks for it.
    """

    id: str
    ids_T: Ids
    is_target_T: Mask
    licence: str
    begins_T: Begins | None = None

    @classmethod
    def after(
        cls,
        example_id: str,
        ids_T: Ids,
        loss_start: int,
        licence: str,
        begins_T: Begins | None = None,
    ) -> "Example":
        """An example whose loss starts at position ``loss_start``."""
        is_target = np.arange(len(ids_T)) >= max(1, loss_start)
        return cls(example_id, ids_T, is_target, licence, begins_T)
