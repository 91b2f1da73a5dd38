"""A training step of the quantiser: Interloom against vector-quantize-pytorch.

Look-up, straight-through gradient, statistics and the new codebook. Both begin with the same codes;
restarts are off, since the peer has another rule. The codes of the first step are compared.

    python benchmarks/quantizer_training.py
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from vector_quantize_pytorch import VectorQuantize

from interloom.config.speech_tokenizer import QuantizerConfig
from interloom.speech_tokenizer.quantizer import EmaCodebook

SHAPES = ((1280, 16_384, 512), (512, 4096, 1024), (256, 1024, 4096))  # width, codes, vectors
TURNS = 3


def both_sides(width: int, size: int) -> tuple[EmaCodebook, VectorQuantize]:
    """Two quantisers with the same codes, in training mode."""
    torch.manual_seed(0)
    config = QuantizerConfig(codebook_size=size, restart_every_steps=10**9)
    ours = EmaCodebook(config, width).train()
    theirs = VectorQuantize(dim=width, codebook_size=size, decay=0.99).train()
    inner = theirs._codebook  # noqa: SLF001 - the only way to give it codes
    inner.embed.data.copy_(ours.weight[None])
    inner.embed_avg.data.copy_(ours.weight[None])
    inner.cluster_size.data.fill_(1.0)
    inner.initted.data.fill_(1)
    return ours, theirs


def our_step(codebook: EmaCodebook, vectors: torch.Tensor) -> torch.Tensor:
    """Forward and backward; the codes."""
    quantized = codebook(vectors)
    (quantized.vectors_ND.sum() + quantized.commitment).backward()
    codes: torch.Tensor = quantized.codes_N
    return codes


def their_step(quantizer: VectorQuantize, vectors: torch.Tensor) -> torch.Tensor:
    """Forward and backward; the codes."""
    quantized, codes, commitment = quantizer(vectors[None])
    (quantized.sum() + commitment.sum()).backward()
    chosen: torch.Tensor = codes[0]
    return chosen


def rate(step: Callable[[], torch.Tensor], count: int) -> float:
    """Vectors a second."""
    started_s = time.perf_counter()
    step()
    return count / (time.perf_counter() - started_s)


def summary(rates: Sequence[float]) -> dict[str, float]:
    """Median and spread."""
    return {
        "median": round(statistics.median(rates)),
        "min": round(min(rates)),
        "max": round(max(rates)),
    }


def compare(width: int, size: int, count: int) -> dict[str, object]:
    """Both sides in turns over the same vectors."""
    ours, theirs = both_sides(width, size)
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(1))
    vectors.requires_grad_()
    differing = int((our_step(ours, vectors) != their_step(theirs, vectors)).sum())
    our_rates, their_rates = [], []
    for _ in range(TURNS):
        our_rates.append(rate(lambda: our_step(ours, vectors), count))
        their_rates.append(rate(lambda: their_step(theirs, vectors), count))
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
    figure = {
        "figure": "quantizer_training",
        "unit": "vectors/s",
        "configs": configs,
        "ratio": worst,
    }
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
