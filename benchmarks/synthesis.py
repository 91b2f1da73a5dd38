"""Synthesis of spans of mixed lengths: refilled slots against Hugging Face ``generate``.

Both decode greedily with the same weights on one thread, and are measured in processor time, which
says the same on a busy machine. ``generate`` gets left-padded batches, as many rows as there are
slots, and stops each row at its own limit. It gets them as they come, and sorted by the length of
their text, so that the rows of a batch end at about the same time: as it is best used. The codes
must be equal, except after a step whose two best logits are within 1e-4 of each other.

    python benchmarks/synthesis.py
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _sides import OURS, compared, rates_in_turns, show
from torch import Tensor

from interloom.testing.llama_twin import llama_twin
from interloom.text_to_token.decoding import TorchEngine
from interloom.text_to_token.jobs import Job
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.prompt import Prompt

TURNS = 3
CONFIGS = (
    {"width": 128, "layers": 4, "spans": 256, "slots": 64, "sorted": 0},
    {"width": 128, "layers": 4, "spans": 256, "slots": 64, "sorted": 1},
    {"width": 128, "layers": 4, "spans": 128, "slots": 32, "sorted": 0},
    {"width": 256, "layers": 6, "spans": 128, "slots": 32, "sorted": 0},
    {"width": 256, "layers": 6, "spans": 128, "slots": 32, "sorted": 1},
)
NUM_CODES = 512
NUM_TEXT_IDS = 640
NEAR_TIE = 1e-4
MOST_TIES = 1e-3

Codes = list[list[int]]


def make_jobs(num_spans: int) -> list[Job]:
    """Spans of Poisson(10) words: one and a half text ids and about four and a half codes each."""
    rng = np.random.Generator(np.random.Philox(key=1))
    jobs = []
    for _ in range(num_spans):
        words = 1 + int(rng.poisson(9))
        length, limit = 1 + words * 3 // 2, max(3, int(rng.normal(4.5, 0.8) * words))
        ids = rng.integers(NUM_CODES + 1, NUM_CODES + 1 + NUM_TEXT_IDS, size=length)
        prompt = Prompt(ids, np.arange(-length, 0, dtype=np.float32))
        jobs.append(Job(prompt, limit, np.zeros(limit + 1)))
    return jobs


def make_model(width: int, layers: int) -> TextToTokenModel:
    """Random weights; the end is never the best, so that lengths are those of the jobs."""
    shape = ModelShape(
        num_ids=NUM_CODES + 1 + NUM_TEXT_IDS,
        num_codes=NUM_CODES,
        width=width,
        num_layers=layers,
        num_heads=width // 32,
        num_kv_heads=width // 32,
        head_width=32,
        ffn_size=16 * round(width * 8 / 3 / 16),
    )
    model = TextToTokenModel(shape).eval()
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight[-1] = 0
    return model


def make_peer(model: Any, end: int) -> Callable[[list[Job], int], Codes]:
    """``generate`` over batches."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Limits(StoppingCriteria):  # type: ignore[misc]
        """Each row ends at its own length."""

        def __init__(self, lengths: Tensor) -> None:
            self.lengths = lengths

        def __call__(self, input_ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
            """Which rows have ended."""
            return input_ids.shape[1] >= self.lengths

    def one_batch(jobs: list[Job]) -> Codes:
        width = max(len(job.prompt) for job in jobs)
        ids = torch.full((len(jobs), width), end)
        mask = torch.zeros_like(ids)
        for row, job in enumerate(jobs):
            ids[row, width - len(job.prompt) :] = torch.from_numpy(job.prompt.ids)
            mask[row, width - len(job.prompt) :] = 1
        limits = torch.tensor([job.limit for job in jobs])
        made = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=int(limits.max()),
            stopping_criteria=StoppingCriteriaList([Limits(width + limits)]),
        )
        return [made[row, width : width + job.limit].tolist() for row, job in enumerate(jobs)]

    def run(jobs: list[Job], slots: int) -> Codes:
        return [
            codes
            for start in range(0, len(jobs), slots)
            for codes in one_batch(jobs[start : start + slots])
        ]

    return run


def count_near_ties(twin: Any, jobs: list[Job], ours: Codes, theirs: Codes) -> int:
    """Spans that part after a near tie; stops the benchmark if one parts without.

    Raises:
        SystemExit: Codes differ where the peer's two best logits do not.
    """
    ties = 0
    for job, one, other in zip(jobs, ours, theirs, strict=True):
        if one == other:
            continue
        step = [mine == its for mine, its in zip(one, other, strict=True)].index(False)
        ids = torch.tensor([[*job.prompt.ids.tolist(), *other[:step]]])
        with torch.no_grad():
            best, second = twin(input_ids=ids).logits[0, -1].topk(2).values.tolist()
        if best - second > NEAR_TIE:
            raise SystemExit(f"codes differ at step {step}, where {best} and {second} are best")
        ties += 1
    return ties


def compare(config: dict[str, int]) -> dict[str, object]:
    """Both sides in turns, in codes a second of processor time."""
    slots = config["slots"]
    model, jobs = make_model(config["width"], config["layers"]), make_jobs(config["spans"])
    if config["sorted"]:
        jobs.sort(key=lambda job: len(job.prompt))
    twin = llama_twin(model)
    peer = make_peer(twin, NUM_CODES)
    engine = TorchEngine(model, num_slots=slots, speech_offset=0)
    made = {
        OURS: [one.codes.tolist() for one in engine.decode(jobs)],
        "generate": peer(jobs, slots),
    }
    total = sum(map(len, made[OURS]))
    ties = count_near_ties(twin, jobs, made[OURS], made["generate"])
    if ties > MOST_TIES * total:
        raise SystemExit(f"{ties} near ties in {total} codes: more than {MOST_TIES:.1%}")
    tasks = {OURS: lambda: engine.decode(jobs), "generate": lambda: peer(jobs, slots)}
    rates = rates_in_turns(tasks, total, TURNS, time.process_time)
    return config | {"near_ties": ties, "codes": total} | compared(rates)


def main() -> None:
    """Print one JSON object."""
    torch.set_num_threads(1)
    configs = [compare(config) for config in CONFIGS]
    show("synthesis", "codes/s", configs)


if __name__ == "__main__":
    main()
