"""Rows that grow token by token, with what a model remembers of them.

Legend: B rows, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from interloom.language_model.attention import KeyValueCache
from interloom.language_model.model import Transformer, packed_mask
from interloom.vocabulary.layout import Ids, Marker, VocabularyLayout


@dataclass(frozen=True, slots=True, eq=False)
class PaddedRows:
    """Rows of different lengths, padded on the right; padding is a document of its own.

    Attributes:
        ids_BT: Joint ids.
        positions_BT: Place within the row.
        segments_BT: 0, and 1 for padding.
        targets_BT: All but the first of each row, and no padding.
        lengths_B: Tokens of each row.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    targets_BT: Tensor
    lengths_B: Tensor

    @classmethod
    def of(cls, rows: Sequence[Ids], layout: VocabularyLayout) -> "PaddedRows":
        """Pad rows."""
        lengths = np.array([len(row) for row in rows])
        places = np.arange(lengths.max())
        ids = np.full((len(rows), len(places)), layout.marker(Marker.PAD), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        is_padding = places[None, :] >= lengths[:, None]
        return cls(
            torch.from_numpy(ids),
            torch.from_numpy(np.broadcast_to(places, ids.shape).copy()),
            torch.from_numpy(is_padding.astype(np.int64)),
            torch.from_numpy(~is_padding & (places > 0)),
            torch.from_numpy(lengths),
        )


class GrowingRows(Protocol):
    """Rows and a model's memory of them."""

    def read(self) -> Tensor:
        """Read the prompts; logits (B, V) after each."""
        ...

    def step(self, ids_B: Tensor) -> Tensor:
        """Read one more token of each row; logits (B, V) after it."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but these."""
        ...


class PlainRows:
    """Rows of the plain transformer."""

    def __init__(self, model: Transformer, prompts: PaddedRows, *, new_tokens: int) -> None:
        config = model.config
        rows, length = prompts.ids_BT.shape
        shape = (rows, config.num_kv_heads, length + new_tokens, config.head_size)
        self._model = model
        self._prompts = prompts
        self._lengths_B = prompts.lengths_B
        self._caches = [KeyValueCache(shape) for _ in range(config.num_layers)]

    def read(self) -> Tensor:
        """Read the prompts."""
        batch = self._prompts
        rows, length = batch.ids_BT.shape
        for cache in self._caches:
            cache.places_BT = batch.positions_BT
        mask = packed_mask(batch.segments_BT)
        room = self._caches[0].capacity - length
        beyond = torch.zeros(rows, 1, length, room, dtype=torch.bool)
        seen = torch.cat([mask, beyond], dim=-1)
        hidden = self._model.hidden(batch.ids_BT, batch.positions_BT, seen, self._caches)
        return hidden[torch.arange(rows), self._lengths_B - 1] @ self._model.output_weight.T

    def step(self, ids_B: Tensor) -> Tensor:
        """Read one more token of each row."""
        places_B1 = self._lengths_B[:, None]
        for cache in self._caches:
            cache.places_BT = places_B1
        seen = torch.arange(self._caches[0].capacity) <= places_B1
        hidden = self._model.hidden(ids_B[:, None], places_B1, seen[:, None, None], self._caches)
        self._lengths_B = self._lengths_B + 1
        return hidden[:, 0] @ self._model.output_weight.T

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but these."""
        self._lengths_B = self._lengths_B[rows]
        for cache in self._caches:
            cache.keep(rows)
