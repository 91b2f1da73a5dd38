"""Next-token training on packed rows, as the training loop wants it (spec section 8.5)."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from interloom.language_model.building import AnyTransformer
from interloom.language_model.operations import num_positions, training_flops
from interloom.language_model.patches.choosing import RowCutter
from interloom.language_model.patches.cutting import Patches
from interloom.language_model.patches.model import PatchedTransformer
from interloom.mixture.ahead import ReadAhead
from interloom.mixture.batches import RowBatch
from interloom.mixture.examples import Mask
from interloom.mixture.order import RowOrder
from interloom.mixture.rows import RowSource
from interloom.training.loop import Loss
from interloom.vocabulary.layout import Marker, VocabularyLayout


class LanguageModelTask:
    """A transformer and rows; batch ``index`` follows from the order of rows alone.

    The loss of an optimizer step is the mean over all its targets, however its rows are split into
    micro-batches and ranks: each micro-batch gives its sum, divided by its part of the step's
    targets. Curves: ``loss/text``, ``loss/speech``, ``loss/marker`` by what is predicted, and
    ``loss/source/NAME`` by where it is from, a code where an id stands for several; and, of the
    same groups, ``token_share/...``, their part of the targets, and ``gradient_share/...``, their
    part of the squared gradient at the last hidden states: who pulls at the model, and how hard. Of
    a micro-batch ``flops`` are the operations, ``flop_share/speech`` the part of them that speech
    takes, ``tokens`` what its documents hold and ``positions`` what the large model makes of them;
    of latent patches there are the counts of ``CutRows`` besides.
    """

    def __init__(
        self,
        model: AnyTransformer,
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
        self._pull = _Pull(model.norm)
        self._model = model
        self._cutter = (
            RowCutter(model.patching, layout.speech_offset, seed)
            if isinstance(model, PatchedTransformer)
            else None
        )
        self._ahead = ReadAhead(self._read)

    def loss(self, module: nn.Module, index: int) -> Loss:
        """The loss of micro-batch ``index``."""
        began_s = time.perf_counter()
        made = self._ahead(index)
        data_wait_s = time.perf_counter() - began_s
        batch = made.batch
        total, losses_N = _forward(module, batch, made.patches)
        groups = _groups(batch, self._layout, self._rows.source_names)
        return Loss(
            total * made.scale,
            _sums(groups, losses_N, _num_plain(batch, self._layout))
            | _token_shares(groups)
            | made.sums,
            late_sums=lambda: _gradient_shares(groups, self._pull.take(batch)),
            rows=made.rows,
            num_positions=made.tokens,
            flops=made.flops,
            data_wait_s=data_wait_s,
        )

    def _read(self, index: int) -> "_Micro":
        """All that is known of a micro-batch before it is computed."""
        first = index * self._rows_per_batch
        rows = tuple(self._order.rows(first, first + self._rows_per_batch))
        batch = self._rows.batch(rows)
        cut = self._cutter.cut(batch, first) if self._cutter else None
        is_speech_BL = self._layout.is_speech(batch.tokens_BL)
        patches = cut.patches if cut else None
        flops = training_flops(self._model, batch, patches)
        speech = training_flops(self._model, batch, patches, among_BL=is_speech_BL)
        is_filled_BL = batch.tokens_BL != self._layout.marker(Marker.PAD)
        tokens = int(self._layout.num_plain(batch.tokens_BL[is_filled_BL]).sum())
        sums = {"flops": flops, "flops/weight": 1.0}
        sums |= {"flop_share/speech": speech, "flop_share/speech/weight": flops}
        sums |= {"tokens": float(tokens), "tokens/weight": 1.0}
        positions = num_positions(self._model, batch, patches, is_filled_BL)
        sums |= {"positions": float(positions), "positions/weight": 1.0}
        return _Micro(
            rows,
            batch,
            patches,
            tokens=tokens,
            scale=self._batches_per_step / self._step_targets(index),
            flops=flops,
            sums=sums | (cut.counts if cut else {}),
        )

    def _step_targets(self, index: int) -> int:
        """Targets of the whole optimizer step that a micro-batch belongs to; at least 1."""
        step = index // self._batches_per_step
        size = self._rows_per_batch * self._batches_per_step
        return max(1, self._rows.num_targets(self._order.rows(step * size, (step + 1) * size)))


def mean_losses(
    model: AnyTransformer, rows: RowSource, layout: VocabularyLayout, *, rows_per_batch: int
) -> dict[str, float]:
    """The mean loss of all rows, under the names of the curves; none of what is not there.

    The loss of an id that stands for several codes is shared out among them.
    """
    sums: Counter[str] = Counter()
    with torch.inference_mode():
        for first in range(0, rows.num_rows, rows_per_batch):
            batch = rows.batch(range(first, min(first + rows_per_batch, rows.num_rows)))
            total, losses_N = _forward(model, batch)
            counts_N = _num_plain(batch, layout)
            own = {"loss": float(total), "loss/weight": float(counts_N.sum())}
            groups = _groups(batch, layout, rows.source_names)
            sums.update(own | _sums(groups, losses_N, counts_N))
    return {
        name: sums[name] / sums[f"{name}/weight"] for name in sums if sums.get(f"{name}/weight")
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Micro:
    """One micro-batch.

    Attributes:
        rows: Numbers of its rows.
        batch: What they hold.
        patches: Into which they are cut, if the model has any.
        tokens: Of all documents, codes counted one by one.
        scale: What its sum of losses is times.
        flops: Operations, forward and backward.
        sums: Of curves.
    """

    rows: tuple[int, ...]
    batch: RowBatch
    patches: Patches | None
    tokens: int
    scale: float
    flops: float
    sums: dict[str, float]


def _forward(
    module: nn.Module, batch: RowBatch, patches: Patches | None = None
) -> tuple[Tensor, Tensor]:
    """The sum of the losses and each of them, computed where the module lies."""
    device = next(module.parameters()).device
    arrays = (
        batch.tokens_BL.astype(np.int64),
        batch.positions_BL,
        batch.segments_BL,
        batch.is_target_BL,
    )
    tensors = [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]
    total, losses_N = module(*tensors, *([] if patches is None else [patches.to(device)]))
    return total, losses_N


def _groups(
    batch: RowBatch, layout: VocabularyLayout, source_names: Sequence[str]
) -> dict[str, Mask]:
    """Which of the targets (N,) belong to each modality and to each source."""
    ids = batch.tokens_BL[batch.is_target_BL]
    is_text, is_speech = layout.is_text(ids), layout.is_speech(ids)
    groups = {"text": is_text, "speech": is_speech, "marker": ~(is_text | is_speech)}
    sources = batch.sources_BL[batch.is_target_BL]
    for number, name in enumerate(source_names):
        groups[f"source/{name}"] = sources == number
    return groups


def _num_plain(batch: RowBatch, layout: VocabularyLayout) -> NDArray[np.int64]:
    """How many tokens of the plain vocabulary each target (N,) stands for."""
    return layout.num_plain(batch.tokens_BL[batch.is_target_BL])


def _sums(
    groups: Mapping[str, Mask], losses_N: Tensor, counts_N: NDArray[np.int64]
) -> dict[str, float]:
    """Sums of losses of each group, with the number of plain tokens they are of."""
    losses = losses_N.detach().double().cpu().numpy()
    sums: dict[str, float] = {}
    for name, own in groups.items():
        sums[f"loss/{name}"] = float(losses[own].sum())
        sums[f"loss/{name}/weight"] = float(counts_N[own].sum())
    return sums


def _token_shares(groups: Mapping[str, Mask]) -> dict[str, float]:
    """How many targets each group has, with the number of all."""
    sums: dict[str, float] = {}
    for name, own in groups.items():
        sums[f"token_share/{name}"] = float(own.sum())
        sums[f"token_share/{name}/weight"] = float(len(own))
    return sums


def _gradient_shares(groups: Mapping[str, Mask], pull_N: NDArray[np.float64]) -> dict[str, float]:
    """How hard each group pulls, with the pull of all."""
    sums: dict[str, float] = {}
    for name, own in groups.items():
        sums[f"gradient_share/{name}"] = float(pull_N[own].sum())
        sums[f"gradient_share/{name}/weight"] = float(pull_N.sum())
    return sums


class _Pull:
    """Keeps the gradient at the last hidden states of the newest backward pass."""

    def __init__(self, norm: nn.Module) -> None:
        """Listen at the norm whose output the loss is computed from."""
        self._squares_BT: Tensor | None = None
        norm.register_forward_hook(self._listen)

    def take(self, batch: RowBatch) -> NDArray[np.float64]:
        """The squared gradient (N,) for each target of the micro-batch that was just done."""
        assert self._squares_BT is not None
        at_target_BT = self._squares_BT.roll(1, dims=1).double().cpu().numpy()
        self._squares_BT = None
        squares_N: NDArray[np.float64] = at_target_BT[batch.is_target_BL]
        return squares_N

    def _listen(self, _norm: nn.Module, _given: object, hidden_BTD: Tensor) -> None:
        if hidden_BTD.requires_grad:
            hidden_BTD.register_hook(self._keep)  # type: ignore[no-untyped-call]

    def _keep(self, gradient_BTD: Tensor) -> None:
        self._squares_BT = gradient_BTD.detach().float().square().sum(dim=2)
