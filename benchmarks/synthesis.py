"""Synthesis of spans of mixed lengths: refilled slots against Hugging Face ``generate``.

Both decode greedily with the same weights on one thread. ``generate`` gets left-padded batches, as
many rows as there are slots, and stops each row at its own limit. It gets them twice: as they come,
and sorted by the length of their text, so that the rows of a batch end at about the same time. The
codes must be equal.

    python benchmarks/synthesis.py
"""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from interloom.text_to_token.decoding import Job, Sampling, decode
from interloom.text_to_token.model import ModelShape, TextToTokenModel
from interloom.text_to_token.prompt import Prompt

TURNS = 3
CONFIGS = (
    {"width": 128, "layers": 4, "spans": 256, "slots": 64, "sorted": 0},
    {"width": 128, "layers": 4, "spans": 256, "slots": 64, "sorted": 1},
    {"width": 128, "layers": 4, "spans": 128, "slots": 32, "sorted": 0},
)
NUM_CODES = 512
NUM_TEXT_IDS = 640

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
    shape = ModelShape(NUM_CODES + 1 + NUM_TEXT_IDS, NUM_CODES, width, layers, width // 32)
    model = TextToTokenModel(shape).eval()
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight[-1] = 0
    return model


def run_interloom(model: TextToTokenModel, jobs: list[Job], slots: int) -> Codes:
    """Slots that are refilled as soon as a span has ended."""
    sampling = Sampling(temperature=0.0, top_p=1.0)
    decoded = decode(model, jobs, num_slots=slots, speech_offset=0, sampling=sampling)
    return [one.codes.tolist() for one in decoded]


def make_peer(ours: TextToTokenModel) -> Callable[[list[Job], int], Codes]:
    """``generate`` of a Llama with the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

    shape = ours.shape
    config = LlamaConfig(
        vocab_size=shape.num_ids,
        hidden_size=shape.width,
        intermediate_size=ours.state_dict()["blocks.0.down.weight"].shape[1],
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        rope_theta=1000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=shape.num_codes,
        pad_token_id=shape.num_codes,
    )
    model = LlamaForCausalLM(config).eval()
    model.lm_head = nn.Linear(shape.width, shape.num_codes + 1, bias=False)
    model.load_state_dict(as_llama(ours.state_dict(), shape.num_layers))

    class Limits(StoppingCriteria):  # type: ignore[misc]
        """Each row ends at its own length."""

        def __init__(self, lengths: Tensor) -> None:
            self.lengths = lengths

        def __call__(self, input_ids: Tensor, _scores: Tensor, **_: object) -> Tensor:
            """Which rows have ended."""
            return input_ids.shape[1] >= self.lengths

    def one_batch(jobs: list[Job]) -> Codes:
        width = max(len(job.prompt) for job in jobs)
        ids = torch.full((len(jobs), width), shape.num_codes)
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


def as_llama(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Our tensors under Llama's names."""
    named = {
        "model.embed_tokens.weight": weights["embedding.weight"],
        "model.norm.weight": weights["norm.weight"],
        "lm_head.weight": weights["head.weight"],
    }
    for at in range(layers):
        ours, theirs = f"blocks.{at}.", f"model.layers.{at}."
        query, key, value = weights[f"{ours}query_key_value.weight"].chunk(3)
        gate, up = weights[f"{ours}gate_up.weight"].chunk(2)
        named |= {
            f"{theirs}input_layernorm.weight": weights[f"{ours}attention_norm.weight"],
            f"{theirs}post_attention_layernorm.weight": weights[f"{ours}gate_norm.weight"],
            f"{theirs}self_attn.q_proj.weight": query,
            f"{theirs}self_attn.k_proj.weight": key,
            f"{theirs}self_attn.v_proj.weight": value,
            f"{theirs}self_attn.o_proj.weight": weights[f"{ours}attention_out.weight"],
            f"{theirs}mlp.gate_proj.weight": gate,
            f"{theirs}mlp.up_proj.weight": up,
            f"{theirs}mlp.down_proj.weight": weights[f"{ours}down.weight"],
        }
    return named


def compare(config: dict[str, int]) -> dict[str, object]:
    """Both sides in turns, in codes a second."""
    spans, slots = config["spans"], config["slots"]
    model, jobs = make_model(config["width"], config["layers"]), make_jobs(spans)
    if config["sorted"]:
        jobs.sort(key=lambda job: len(job.prompt))
    peer = make_peer(model)
    rates: dict[str, list[float]] = {"interloom": [], "generate": []}
    for _ in range(TURNS):
        made: dict[str, Codes] = {}
        for side, measured in rates.items():
            started = time.perf_counter()
            if side == "interloom":
                made[side] = run_interloom(model, jobs, slots)
            else:
                made[side] = peer(jobs, slots)
            total = sum(len(one) for one in made[side])
            measured.append(total / (time.perf_counter() - started))
        pairs = zip(made["interloom"], made["generate"], strict=True)
        unequal = sum(ours != theirs for ours, theirs in pairs)
        if unequal > spans // 100:  # sums in another order may turn a near tie
            raise SystemExit(f"{unequal} of {spans} spans differ")
    medians = {side: statistics.median(values) for side, values in rates.items()}
    shown = {
        side: {
            "median": round(medians[side]),
            "min": round(min(values)),
            "max": round(max(values)),
        }
        for side, values in rates.items()
    }
    return config | shown | {"ratio": round(medians["interloom"] / medians["generate"], 2)}


def main() -> None:
    """Print one JSON object."""
    torch.set_num_threads(1)
    configs = [compare(config) for config in CONFIGS]
    ratios = [config["ratio"] for config in configs]
    worst = min(ratio for ratio in ratios if isinstance(ratio, float))
    body = {"figure": "synthesis", "unit": "codes/s", "configs": configs, "ratio": worst}
    print(json.dumps(body))


if __name__ == "__main__":
    main()
