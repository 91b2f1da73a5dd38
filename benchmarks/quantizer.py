"""Looking up codes: Interloom's codebook against vector-quantize-pytorch.

Both hold the same codebook, in evaluation mode, and see the same vectors. The codes are compared:
ours are the exactly nearest ones, so where both differ the peer's must be the further one.

    python benchmarks/quantizer.py
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from vector_quantize_pytorch import VectorQuantize

from interloom.config.speech_tokenizer import QuantizerConfig
from interloom.speech_tokenizer.quantizer import EmaCodebook

SHAPES = ((1280, 16_384, 256), (256, 1024, 4096))  # width, codes, vectors
TURNS = 5


def both_sides(width: int, size: int) -> tuple[EmaCodebook, VectorQuantize]:
    """Two quantisers with the same codes."""
    torch.manual_seed(0)
    ours = EmaCodebook(QuantizerConfig(codebook_size=size), width).eval()
    theirs = VectorQuantize(dim=width, codebook_size=size, decay=0.99).eval()
    inner = theirs._codebook  # noqa: SLF001 - the only way to give it codes
    inner.embed.data.copy_(ours.weight[None])
    inner.initted.data.fill_(1)
    return ours, theirs


def vectors_of(codebook: EmaCodebook, count: int) -> torch.Tensor:
    """Vectors around drawn codes, as those of a trained encoder are."""
    generator = torch.Generator().manual_seed(1)
    picks = torch.randint(len(codebook.weight), (count,), generator=generator)
    noise = torch.randn(count, codebook.weight.shape[1], generator=generator)
    return codebook.weight[picks] + 0.7 * noise


def rate(look_up: Callable[[], object], count: int) -> float:
    """Vectors a second."""
    started_s = time.perf_counter()
    look_up()
    return count / (time.perf_counter() - started_s)


def count_worse(ours: EmaCodebook, vectors: torch.Tensor, theirs_N: torch.Tensor) -> int:
    """How many of the peer's codes are nearer than ours; there must be none."""
    apart = [
        (vectors.double() - ours.weight[codes].double()).square().sum(1)
        for codes in (ours.nearest(vectors), theirs_N)
    ]
    return int((apart[1] < apart[0]).sum())


def summary(rates: Sequence[float]) -> dict[str, float]:
    """Median and spread."""
    return {
        "median": round(statistics.median(rates)),
        "min": round(min(rates)),
        "max": round(max(rates)),
    }


@torch.no_grad()
def compare(width: int, size: int, count: int) -> dict[str, object]:
    """Both sides in turns over the same vectors."""
    ours, theirs = both_sides(width, size)
    vectors = vectors_of(ours, count)
    codes = theirs(vectors[None])[1][0]
    differing = int((ours.nearest(vectors) != codes).sum())
    if count_worse(ours, vectors, codes):
        raise SystemExit("a code of the peer is nearer than ours")
    our_rates, their_rates = [], []
    for _ in range(TURNS):
        our_rates.append(rate(lambda: ours.nearest(vectors), count))
        their_rates.append(rate(lambda: theirs(vectors[None]), count))
    return {
        "width": width,
        "codes": size,
        "interloom": summary(our_rates),
        "vector-quantize-pytorch": summary(their_rates),
        "differing": differing,
        "ratio": round(statistics.median(our_rates) / statistics.median(their_rates), 2),
    }


def main() -> None:
    """Print one line a shape, then the figure as JSON."""
    configs = []
    for shape in SHAPES:
        configs.append(compare(*shape))
        print(configs[-1])
    worst = min(float(str(config["ratio"])) for config in configs)
    figure = {"figure": "quantizer", "unit": "vectors/s", "configs": configs, "ratio": worst}
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
