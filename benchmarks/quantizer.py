"""Looking up codes: Interloom's codebook against vector-quantize-pytorch.

Both hold the same codebook, in evaluation mode, and see the same vectors. The codes are compared:
ours are the exactly nearest ones, so where both differ the peer's must be the further one.

    python benchmarks/quantizer.py
"""

import torch
from _sides import OURS, compared, rates_in_turns, show
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


def count_worse(ours: EmaCodebook, vectors: torch.Tensor, theirs_N: torch.Tensor) -> int:
    """How many of the peer's codes are nearer than ours; there must be none."""
    apart = [
        (vectors.double() - ours.weight[codes].double()).square().sum(1)
        for codes in (ours.nearest(vectors), theirs_N)
    ]
    return int((apart[1] < apart[0]).sum())


@torch.no_grad()
def compare(width: int, size: int, count: int) -> dict[str, object]:
    """Both sides in turns over the same vectors."""
    ours, theirs = both_sides(width, size)
    vectors = vectors_of(ours, count)
    codes = theirs(vectors[None])[1][0]
    differing = int((ours.nearest(vectors) != codes).sum())
    if count_worse(ours, vectors, codes):
        raise SystemExit("a code of the peer is nearer than ours")
    tasks = {
        OURS: lambda: ours.nearest(vectors),
        "vector-quantize-pytorch": lambda: theirs(vectors[None]),
    }
    rates = rates_in_turns(tasks, count, TURNS)
    return {"width": width, "codes": size, "differing": differing} | compared(rates)


def main() -> None:
    """Print one line a shape, then the figure as JSON."""
    show("quantizer", "vectors/s", [compare(*shape) for shape in SHAPES])


if __name__ == "__main__":
    main()
