"""A training step: Interloom's model and DeepSpeed engine against transformers' Llama and Trainer.

Both sides train the same Llama from the same weights on the same rows in the same order, in fp32,
with AdamW of the same settings, on one thread, each in a process of its own. The loss curves must
agree. What counts is the processor's time for all steps but the first few, batches included.
transformers gets packed rows as it needs them to keep documents apart: with a block mask.

    python benchmarks/train_step.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _sides import compared, show

TURNS = 3
STEPS, UNCOUNTED = 14, 4
ROWS, WIDTH, LAYERS, HEADS, KV_HEADS, FFN = 4, 256, 4, 8, 4, 704
TEXT_IDS, CODES = 3573, 512
SETTINGS = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "clip": 1.0}
CONFIGS: tuple[dict[str, Any], ...] = (
    {"rows": "packed documents", "row_length": 256, "longest": 128},
    {"rows": "one document", "row_length": 256, "longest": 256},
)


def rows_of(config: dict[str, Any]) -> Any:
    """Rows of random but skewed tokens, so that there is something to learn."""
    import numpy as np

    from interloom.mixture.examples import Example
    from interloom.mixture.rows import MemoryRows
    from interloom.vocabulary.layout import Marker

    rng = np.random.Generator(np.random.Philox(5))
    length, longest = config["row_length"], config["longest"]
    drawn = rng.integers(16, longest + 1, 400) if longest < length else [length] * 80
    tokens = [(rng.random(int(n)) ** 3 * TEXT_IDS).astype(np.int32) for n in drawn]
    examples = [("s", Example.after(str(i), ids, 1, "CC0-1.0")) for i, ids in enumerate(tokens)]
    return MemoryRows(examples, row_length=length, pad=layout().marker(Marker.PAD))


def layout() -> Any:
    """A vocabulary of text and codes."""
    from interloom.vocabulary.layout import VocabularyLayout

    return VocabularyLayout(TEXT_IDS, CODES, "1" * 64, "2" * 64)


def shape(config: dict[str, Any]) -> Any:
    """The model's shape: what Llama has and no more."""
    from interloom.config.language_model import LanguageModelConfig

    return LanguageModelConfig(
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        ffn_size=FFN,
        has_qk_norm=False,
        has_tied_embeddings=False,
        max_length=config["row_length"],
    )


def first_model(config: dict[str, Any]) -> Any:
    """Our model with the weights that both sides start from."""
    import torch

    from interloom.language_model.model import Transformer

    model = Transformer(shape(config), layout().size)
    model.initialise(torch.Generator().manual_seed(3))
    return model


class Clock:
    """Processor time and wall time since the uncounted steps."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._began = (0.0, 0.0)

    def step(self) -> None:
        """A step was made."""
        self.num_steps += 1
        if self.num_steps == UNCOUNTED:
            self._began = (time.process_time(), time.perf_counter())

    def figures(self) -> dict[str, float]:
        """Seconds a step."""
        counted = STEPS - UNCOUNTED
        return {
            "s": (time.process_time() - self._began[0]) / counted,
            "wall_s": (time.perf_counter() - self._began[1]) / counted,
        }


def interloom(config: dict[str, Any]) -> dict[str, Any]:
    """Our loop over our engine, telemetry and all."""
    from interloom.adapters.deepspeed_engine import build_deepspeed_engine
    from interloom.config.training import TrainConfig
    from interloom.language_model.task import LanguageModelTask
    from interloom.ports.workspace import Workspace
    from interloom.training.loop import train

    clock = Clock()

    class Clocked:
        """Tells the clock of each step."""

        def __init__(self, *given: Any) -> None:
            self._engine = build_deepspeed_engine(*given)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._engine, name)

        def step(self, *given: Any, **named: Any) -> Any:
            norm = self._engine.step(*given, **named)
            clock.step()
            return norm

    task = LanguageModelTask(
        first_model(config),
        rows_of(config),
        layout(),
        rows_per_batch=ROWS,
        batches_per_step=1,
        seed=0,
    )
    settings = TrainConfig(
        num_steps=STEPS,
        learning_rate=SETTINGS["learning_rate"],
        schedule="constant",
        beta2=SETTINGS["beta2"],
        weight_decay=0,
        gradient_clip=SETTINGS["clip"],
        threads_per_rank=1,
        log_every_steps=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        trained = train(task, settings, engine=Clocked, work=Workspace(Path(folder)), seed=0)
    waits = [point.value for point in trained.telemetry if point.name.endswith("data_wait_share")]
    losses = [point.value for point in trained.curves if point.name == "train/loss"]
    return clock.figures() | {"losses": losses, "data_wait": statistics.median(waits)}


def batches(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same rows in the same order as transformers wants them."""
    import numpy as np
    import torch

    from interloom.mixture.order import RowOrder

    rows = rows_of(config)
    order = RowOrder(rows.num_rows, 0)
    causal = np.tril(np.ones((config["row_length"],) * 2, np.bool_))
    for step in range(STEPS):
        held = rows.batch(order.rows(step * ROWS, (step + 1) * ROWS))
        batch = {
            "input_ids": held.tokens_BL.astype(np.int64),
            "labels": np.where(held.is_target_BL, held.tokens_BL, -100).astype(np.int64),
            "position_ids": held.positions_BL.astype(np.int64),
        }
        if config["longest"] < config["row_length"]:
            same = held.segments_BL[:, :, None] == held.segments_BL[:, None, :]
            batch["attention_mask"] = (same & causal)[:, None]
        yield {name: torch.from_numpy(value) for name, value in batch.items()}


def transformers(config: dict[str, Any]) -> dict[str, Any]:
    """The Llama and Trainer of transformers."""
    import torch
    from torch.utils.data import DataLoader, IterableDataset
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from interloom.language_model.convert import export_hf, hf_config

    clock, losses = Clock(), []

    class Watching(TrainerCallback):
        """Tells the clock of each step, keeps the losses."""

        def on_step_end(self, *_given: Any, **_named: Any) -> None:
            clock.step()

        def on_log(self, *given: Any, **_named: Any) -> None:
            losses.extend(entry["loss"] for entry in given[1].log_history[-1:] if "loss" in entry)

    class Batches(IterableDataset[Any]):
        """Batches, ready made one at a time."""

        def __iter__(self) -> Iterator[Any]:
            return batches(config)

    class InOrder(Trainer):
        """Reads batches as they are."""

        def get_train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(Batches(), batch_size=None)

    body = hf_config(shape(config), layout().size)
    model = LlamaForCausalLM(LlamaConfig(**body, attn_implementation="sdpa", use_cache=False))
    model.load_state_dict(export_hf(first_model(config).state_dict(), shape(config)))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            max_steps=STEPS,
            per_device_train_batch_size=ROWS,
            learning_rate=SETTINGS["learning_rate"],
            lr_scheduler_type="constant",
            adam_beta2=SETTINGS["beta2"],
            weight_decay=0.0,
            max_grad_norm=SETTINGS["clip"],
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        torch.set_num_threads(1)
        InOrder(model, arguments, train_dataset=Batches(), callbacks=[Watching()]).train()
    return clock.figures() | {"losses": losses}


def run(side: str, config: dict[str, Any]) -> dict[str, Any]:
    """One side in a process of its own, on one thread."""
    import os

    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, side, json.dumps(config)],
        check=False,
        capture_output=True,
        text=True,
        env=dict(os.environ) | threads,
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Both sides in turns."""
    taken: dict[str, list[dict[str, Any]]] = {"interloom": [], "transformers": []}
    for _ in range(TURNS):
        for side, runs in taken.items():
            runs.append(run(side, config))
    pairs = zip(taken["interloom"][0]["losses"], taken["transformers"][0]["losses"], strict=True)
    apart = max(abs(ours - theirs) for ours, theirs in pairs)
    if apart > 1e-3:
        raise SystemExit(f"the loss curves are {apart:.2e} apart")
    tokens = ROWS * config["row_length"]
    rates = {side: [tokens / one["s"] for one in runs] for side, runs in taken.items()}
    waits = [one["data_wait"] for one in taken["interloom"]]
    found = {"losses apart": f"{apart:.1e}", "data wait": f"{statistics.median(waits):.2%}"}
    return config | found | compared(rates)


def main() -> None:
    """Print one line a kind of rows, then the figure as JSON."""
    show("train_step", "tokens/s", [compare(config) for config in CONFIGS])


if __name__ == "__main__":
    if len(sys.argv) == 3:
        side = {"interloom": interloom, "transformers": transformers}[sys.argv[1]]
        print(json.dumps(side(json.loads(sys.argv[2]))))
    else:
        main()
