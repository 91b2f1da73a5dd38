"""A training step with latent patches of speech against one of the plain model, at equal tokens.

Both are Interloom's own; the ratio is what patches save of processor time, beside what they save of
operations. A shape is ``hidden size x layers``. Forward and backward pass, one thread.

    python benchmarks/patched_step.py
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _sides import OURS, compared, rates_in_turns, show
from patching import SPEECH_OFFSET, rows_of

from interloom.config.language_model import LanguageModelConfig
from interloom.config.patches import PatchConfig
from interloom.language_model.model import Transformer
from interloom.language_model.operations import training_flops
from interloom.language_model.patches.choosing import RowCutter
from interloom.language_model.patches.model import PatchedTransformer
from interloom.mixture.batches import RowBatch

TURNS = 5
VOCABULARY = SPEECH_OFFSET + 500
CONFIGS = (
    {"hidden size": 128, "layers": 4, "rows": 16, "tokens": 256, "patch size": 2},
    {"hidden size": 512, "layers": 8, "rows": 4, "tokens": 1024, "patch size": 2},
    {"hidden size": 512, "layers": 8, "rows": 4, "tokens": 1024, "patch size": 4},
)


def batch_of(rows: int, tokens: int) -> RowBatch:
    """Packed rows, two thirds of them speech."""
    ids_BL, segments_BL = rows_of(rows, tokens)
    begins_BL = np.ones(segments_BL.shape, np.bool_)
    begins_BL[:, 1:] = segments_BL[:, 1:] != segments_BL[:, :-1]
    places = np.arange(tokens)
    return RowBatch(
        tokens_BL=ids_BL.astype(np.int32),
        segments_BL=segments_BL.astype(np.int32),
        positions_BL=(
            places - np.maximum.accumulate(np.where(begins_BL, places, 0), axis=1)
        ).astype(np.int32),
        is_target_BL=~begins_BL,
        sources_BL=np.zeros(ids_BL.shape, np.int32),
    )


def compare(config: dict[str, int]) -> dict[str, Any]:
    """Both sides in turns over the same rows."""
    width = config["hidden size"]
    shape = LanguageModelConfig(
        hidden_size=width,
        num_layers=config["layers"],
        num_heads=width // 32,
        num_kv_heads=width // 64,
        ffn_size=3 * width,
    )
    patching = PatchConfig(
        kind="static",
        size=config["patch size"],
        local_size=3 * width // 8,
        local_heads=4,
        local_ffn_size=width,
        token_window=config["tokens"],
    )
    plain = Transformer(shape, VOCABULARY)
    patched = PatchedTransformer(shape, patching, VOCABULARY, speech_offset=SPEECH_OFFSET)
    for model in (plain, patched):
        model.initialise(torch.Generator().manual_seed(0))
    batch = batch_of(config["rows"], config["tokens"])
    cutter = RowCutter(patching, SPEECH_OFFSET, 0)
    tensors = [
        torch.from_numpy(array.astype(np.int64))
        for array in (batch.tokens_BL, batch.positions_BL, batch.segments_BL)
    ]
    is_target = torch.from_numpy(batch.is_target_BL)

    def with_patches() -> None:
        patched.zero_grad()
        patched(*tensors, is_target, cutter.cut(batch, 0).patches)[0].backward()

    def without() -> None:
        plain.zero_grad()
        plain(*tensors, is_target)[0].backward()

    patches = cutter.cut(batch, 0).patches
    flops = training_flops(patched, batch, patches) / training_flops(plain, batch)
    sides: dict[str, Callable[[], object]] = {OURS: with_patches, "plain": without}
    for step in sides.values():
        step()
    total = config["rows"] * config["tokens"]
    rates = rates_in_turns(sides, total, TURNS, time.process_time)
    return config | {"operations of plain": round(flops, 3)} | compared(rates, 0)


def main() -> None:
    """Print one line a configuration, then the figure as JSON."""
    torch.set_num_threads(1)
    configs = [compare(config) for config in CONFIGS]
    show("patched_step", "tokens/s of processor time", configs)


if __name__ == "__main__":
    main()
