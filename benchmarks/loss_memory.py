"""Peak memory of the loss over a large vocabulary: Interloom's chunks against torch's whole logits.

Each side runs forward and backward of output matrix and cross-entropy in a process of its own; what
counts is its peak resident memory above that of its inputs. Both losses and gradients must agree.

    python benchmarks/loss_memory.py
"""

import json
import resource
import subprocess
import sys

from _sides import compared, show

TURNS = 2
# P1's 168,000 ids and rows of 8,192 tokens, halved: the whole needs 17 GB for torch's side.
CONFIGS = ({"tokens": 4096, "vocabulary": 84_000},)
WIDTH = 256
CHUNK_TOKENS = 128


def measure(side: str, tokens: int, vocabulary: int) -> dict[str, float]:
    """One side's peak in MiB above its inputs, with its loss and the sizes of its gradients."""
    import torch
    from torch.nn import functional

    from interloom.language_model.cross_entropy import chunked_cross_entropy

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, WIDTH, generator=generator).mul_(0.02).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    before = peak_mib()
    if side == "interloom":
        loss, _ = chunked_cross_entropy(hidden, weight, targets, CHUNK_TOKENS)
    else:
        loss = functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.autograd.backward(loss)
    used = peak_mib() - before
    if hidden.grad is None or weight.grad is None:
        raise SystemExit("no gradient was made")
    return {
        "mib": used,
        "loss": loss.item(),
        "hidden": hidden.grad.norm().item(),
        "weight": weight.grad.norm().item(),
    }


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(side: str, config: dict[str, int]) -> dict[str, float]:
    """``measure`` in a process of its own."""
    command = [sys.executable, __file__, side, str(config["tokens"]), str(config["vocabulary"])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def compare(config: dict[str, int]) -> dict[str, object]:
    """Both sides in turns."""
    taken: dict[str, list[dict[str, float]]] = {"interloom": [], "torch": []}
    for _ in range(TURNS):
        for side, runs in taken.items():
            runs.append(run(side, config))
    ours, theirs = taken["interloom"][0], taken["torch"][0]
    for name in ("loss", "hidden", "weight"):
        if abs(ours[name] - theirs[name]) > 1e-3 * abs(theirs[name]):
            raise SystemExit(f"{name} differs: {ours[name]} and {theirs[name]}")
    peaks = {side: [one["mib"] for one in runs] for side, runs in taken.items()}
    return config | compared(peaks, 1, is_less_better=True)


def main() -> None:
    """Print one line a size, then the figure as JSON."""
    show("loss_memory", "MiB", [compare(config) for config in CONFIGS])


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
