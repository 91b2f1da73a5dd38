"""Floating-point operations of training, from a batch's own documents.

A backward pass counts twice a forward pass; recomputation is not counted. Norms, rotations and
softmax are left out.
"""

import numpy as np
import torch

from interloom.language_model.building import AnyTransformer
from interloom.language_model.model import Transformer
from interloom.language_model.patches.model import PatchedTransformer
from interloom.language_model.patches.sizes import PatchWork, forward_flops
from interloom.mixture.rows import RowBatch


def training_flops(model: AnyTransformer, batch: RowBatch) -> float:
    """Of the forward and the backward pass over one micro-batch."""
    if isinstance(model, PatchedTransformer):
        work = patch_work(model, batch)
        flops = forward_flops(model.patching, model.config, model.vocab_size, work)
        return 3.0 * sum(flops.values())
    return 3.0 * _plain_flops(model, batch)


def _plain_flops(model: Transformer, batch: RowBatch) -> int:
    """A token attends to those before it in its document and to itself."""
    config = model.config
    weights = config.num_layers * config.block_parameters  # ZeRO 3 leaves a rank's modules empty
    head = model.vocab_size * config.hidden_size
    pairs = int((batch.positions_BL.astype(np.int64) + 1).sum())
    matrices = 2 * (weights * batch.tokens_BL.size + head * int(batch.is_target_BL.sum()))
    return matrices + 4 * config.num_layers * config.hidden_size * pairs


def patch_work(model: PatchedTransformer, batch: RowBatch) -> PatchWork:
    """What the modules of the patched model work through, in rows without padding."""
    config = model.patching
    positions_BT = torch.from_numpy(batch.positions_BL.astype(np.int64))
    tokens, segments = (
        torch.from_numpy(array.astype(np.int64)) for array in (batch.tokens_BL, batch.segments_BL)
    )
    patches = model.cut(tokens, segments)
    ends_BT = torch.ones_like(patches.is_closed_BT)
    ends_BT[:, :-1] = patches.number_BT[:, 1:] != patches.number_BT[:, :-1]
    place_BT = patches.positions_BP.gather(1, patches.number_BT)
    seen_BT = (place_BT + patches.is_closed_BT).clamp(max=config.patch_window)
    return PatchWork(
        tokens=tokens.numel(),
        targets=int(batch.is_target_BL.sum()),
        patches=int(ends_BT.sum()),
        local_pairs=int((positions_BT + 1).clamp(max=config.token_window).sum()),
        patch_pairs=config.sub_queries * int((positions_BT + 1)[ends_BT].sum()),
        global_pairs=int((place_BT + 1)[ends_BT].sum()),
        decoder_pairs=config.sub_queries * int(seen_BT.sum()),
    )
