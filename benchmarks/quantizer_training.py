"""A training step of the quantiser: Interloom against vector-quantize-pytorch.

Look-up, straight-through gradient, statistics and the new codebook. Both begin with the same codes;
restarts are off, since the peer has another rule. The codes of the first step are compared.

    python benchmarks/quantizer_training.py
"""

import torch
from _sides import OURS, compared, rates_in_turns, show
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


def compare(width: int, size: int, count: int) -> dict[str, object]:
    """Both sides in turns over the same vectors."""
    ours, theirs = both_sides(width, size)
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(1))
    vectors.requires_grad_()
    differing = int((our_step(ours, vectors) != their_step(theirs, vectors)).sum())
    tasks = {
        OURS: lambda: our_step(ours, vectors),
        "vector-quantize-pytorch": lambda: their_step(theirs, vectors),
    }
    rates = rates_in_turns(tasks, count, TURNS)
    return {"width": width, "codes": size, "differing": differing} | compared(rates)


def main() -> None:
    """Print one line a shape, then the figure as JSON."""
    show("quantizer_training", "vectors/s", [compare(*shape) for shape in SHAPES])


if __name__ == "__main__":
    main()
