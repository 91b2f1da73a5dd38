"""Next-token training on packed rows, as the training loop wants it (spec section 8.5)."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from interloom.language_model.model import Transformer
from interloom.mixture.order import RowOrder
from interloom.mixture.rows import RowBatch, RowSource
from interloom.training.loop import Loss
from interloom.vocabulary.layout import VocabularyLayout


class LanguageModelTask:
    """A transformer and rows; batch ``index`` follows from the order of rows alone.

    The loss of an optimizer step is the mean over all its targets, however its rows are split into
    micro-batches and ranks: each micro-batch gives its sum, divided by its part of the step's
    targets. Curves: ``loss/text``, ``loss/speech``, ``loss/marker`` by what is predicted, and
    ``loss/source/NAME`` by where it is from.
    """

    def __init__(
        self,
        model: Transformer,
        rows: RowSource,
        layout: VocabularyLayout,
        *,
        rows_per_batch: int,
        batches_per_step: int,
        seed: int,
    ) -> None:
        """See the class.

        Args:
            model: What is trained.
            rows: Where rows come from.
            layout: Tells text from speech.
            rows_per_batch: Rows of a micro-batch.
            batches_per_step: Micro-batches of an optimizer step over all ranks.
            seed: Of the order of rows.
        """
        self.module: nn.Module = model
        self._rows = rows
        self._layout = layout
        self._rows_per_batch = rows_per_batch
        self._batches_per_step = batches_per_step
        self._order = RowOrder(rows.num_rows, seed, rows.phase_rows)

    def loss(self, module: nn.Module, index: int) -> Loss:
        """The loss of micro-batch ``index``."""
        first = index * self._rows_per_batch
        batch = self._rows.batch(self._order.rows(first, first + self._rows_per_batch))
        total, losses_N = _forward(module, batch)
        return Loss(
            total * (self._batches_per_step / self._step_targets(index)),
            _sums(batch, losses_N, self._layout, self._rows.source_names),
        )

    def _step_targets(self, index: int) -> int:
        """Targets of the whole optimizer step that a micro-batch belongs to; at least 1."""
        step = index // self._batches_per_step
        size = self._rows_per_batch * self._batches_per_step
        return max(1, self._rows.num_targets(self._order.rows(step * size, (step + 1) * size)))


def mean_losses(
    model: Transformer, rows: RowSource, layout: VocabularyLayout, *, rows_per_batch: int
) -> dict[str, float]:
    """The mean loss of all rows, under the names of the curves; none of what is not there."""
    sums: Counter[str] = Counter()
    with torch.inference_mode():
        for first in range(0, rows.num_rows, rows_per_batch):
            batch = rows.batch(range(first, min(first + rows_per_batch, rows.num_rows)))
            total, losses_N = _forward(model, batch)
            own = {"loss": float(total), "loss/weight": float(len(losses_N))}
            sums.update(own | dict(_sums(batch, losses_N, layout, rows.source_names)))
    return {
        name: sums[name] / sums[f"{name}/weight"] for name in sums if sums.get(f"{name}/weight")
    }


def _forward(module: nn.Module, batch: RowBatch) -> tuple[Tensor, Tensor]:
    """The sum of the losses and each of them, computed where the module lies."""
    device = next(module.parameters()).device
    arrays = (
        batch.tokens_BL.astype(np.int64),
        batch.positions_BL,
        batch.segments_BL,
        batch.is_target_BL,
    )
    total, losses_N = module(
        *(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)
    )
    return total, losses_N


def _sums(
    batch: RowBatch, losses_N: Tensor, layout: VocabularyLayout, source_names: Sequence[str]
) -> dict[str, float]:
    """Sums of losses, with their counts, by modality and by source."""
    losses = losses_N.detach().double().cpu().numpy()
    ids = batch.tokens_BL[batch.is_target_BL]
    is_text, is_speech = layout.is_text(ids), layout.is_speech(ids)
    groups = {"text": is_text, "speech": is_speech, "marker": ~(is_text | is_speech)}
    sources = batch.sources_BL[batch.is_target_BL]
    for number, name in enumerate(source_names):
        groups[f"source/{name}"] = sources == number
    sums: dict[str, float] = {}
    for name, own in groups.items():
        sums[f"loss/{name}"] = float(losses[own].sum())
        sums[f"loss/{name}/weight"] = float(own.sum())
    return sums
