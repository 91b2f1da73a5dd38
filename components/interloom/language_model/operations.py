"""Floating-point operations of training, from a batch's own documents.

A backward pass counts twice a forward pass; recomputation is not counted. Norms, rotations and
softmax are left out. What a token or a patch looks at is counted as its own work, so that the work
of some tokens can be told from that of the others.
"""

import numpy as np

from interloom.language_model.building import AnyTransformer
from interloom.language_model.model import Transformer
from interloom.language_model.patches.cutting import Patches
from interloom.language_model.patches.model import PatchedTransformer
from interloom.language_model.patches.sizes import PatchWork, forward_flops
from interloom.mixture.batches import RowBatch
from interloom.mixture.examples import Mask


def training_flops(
    model: AnyTransformer,
    batch: RowBatch,
    patches: Patches | None = None,
    *,
    among_BL: Mask | None = None,
) -> float:
    """Of the forward and the backward pass over one micro-batch.

    Args:
        model: Plain, or with latent patches.
        batch: The rows.
        patches: Into which they were cut, if the model has any.
        among_BL: Count these tokens alone; None for all.
    """
    among_BL = np.ones(batch.tokens_BL.shape, np.bool_) if among_BL is None else among_BL
    if isinstance(model, PatchedTransformer):
        assert patches is not None
        work = patch_work(model, batch, patches, among_BL)
        flops = forward_flops(model.patching, model.config, model.vocab_size, work)
        return 3.0 * sum(flops.values())
    return 3.0 * _plain_flops(model, batch, among_BL)


def num_positions(
    model: AnyTransformer, batch: RowBatch, patches: Patches | None, among_BL: Mask
) -> int:
    """Positions of the large model that these tokens take: ids, or patches of them."""
    if isinstance(model, PatchedTransformer):
        assert patches is not None
        return patch_work(model, batch, patches, among_BL).patches
    return int(among_BL.sum())


def _plain_flops(model: Transformer, batch: RowBatch, among_BL: Mask) -> int:
    """A token attends to those before it in its document and to itself."""
    config = model.config
    weights = config.num_layers * config.block_parameters  # ZeRO 3 leaves a rank's modules empty
    head = model.vocab_size * config.hidden_size
    pairs = int((batch.positions_BL.astype(np.int64) + 1)[among_BL].sum())
    targets = int((batch.is_target_BL & among_BL).sum())
    matrices = 2 * (weights * int(among_BL.sum()) + head * targets)
    return matrices + 4 * config.num_layers * config.hidden_size * pairs


def patch_work(
    model: PatchedTransformer, batch: RowBatch, patches: Patches, among_BL: Mask
) -> PatchWork:
    """What the modules of the patched model work through for some tokens, in rows without padding.

    No patch holds tokens that are and tokens that are not among them.
    """
    config = model.patching
    reach_BL = batch.positions_BL.astype(np.int64) + 1
    number_BL, is_closed_BL = patches.number_BT.numpy(), patches.is_closed_BT.numpy()
    ends_BL = among_BL.copy()
    ends_BL[:, :-1] &= number_BL[:, 1:] != number_BL[:, :-1]
    place_BL = np.take_along_axis(patches.positions_BP.numpy(), number_BL, axis=1)
    seen_BL = np.minimum(place_BL + is_closed_BL, config.patch_window)
    return PatchWork(
        tokens=int(among_BL.sum()),
        targets=int((batch.is_target_BL & among_BL).sum()),
        patches=int(ends_BL.sum()),
        local_pairs=int(np.minimum(reach_BL, config.token_window)[among_BL].sum()),
        patch_pairs=config.sub_queries * int(reach_BL[ends_BL].sum()),
        global_pairs=int((place_BL + 1)[ends_BL].sum()),
        decoder_pairs=config.sub_queries * int(seen_BL[among_BL].sum()),
    )
