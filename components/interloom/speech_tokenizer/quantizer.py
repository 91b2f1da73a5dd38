"""EMA vector quantisation (P1; spec 8.1). Shapes: N vectors, D width, K codes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from interloom.config.speech_tokenizer import QuantizerConfig
from interloom.speech_tokenizer.search import CodeSearch


@dataclass(frozen=True, slots=True)
class Quantized:
    """What quantising some vectors gave.

    Attributes:
        vectors_ND: The code vectors, with the gradient passed straight through.
        codes_N: Index of the nearest code.
        commitment: Mean squared distance to the code, over vectors and width.
    """

    vectors_ND: Tensor
    codes_N: Tensor
    commitment: Tensor


class EmaCodebook(nn.Module):
    """A codebook that follows the mean of the vectors it is chosen for.

    All state is buffers in fp32, the counters included, so that a checkpoint holds all of it and a
    cast of the model leaves it alone. Sums are taken over ranks when there are several; all ranks
    then hold the same codebook.
    """

    weight: Tensor
    ema_count: Tensor
    ema_weight: Tensor
    num_updates: Tensor
    num_restarts: Tensor
    is_ready: Tensor
    seed: Tensor

    def __init__(self, config: QuantizerConfig, d_model: int) -> None:
        super().__init__()
        self.config = config
        size = config.codebook_size
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(size, d_model, generator=generator)
        self.register_buffer("weight", weight)
        self.register_buffer("ema_count", torch.ones(size))
        self.register_buffer("ema_weight", weight.clone())
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("num_restarts", torch.zeros((), dtype=torch.long))
        self.register_buffer("is_ready", torch.zeros((), dtype=torch.bool))
        self.register_buffer("seed", torch.zeros((), dtype=torch.long))
        self._search: CodeSearch | None = None
        self._searched = (0, -1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: ARG002, FBT001, FBT002
        """Move with the model, but stay fp32 when it is cast."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = buffer.to(fn(buffer).device)
        self._search = None
        return self

    @property
    def search(self) -> CodeSearch:
        """Look-ups in the codebook as it is; prepared again when it has changed."""
        version = (self.weight.data_ptr(), self.weight._version)  # noqa: SLF001 - torch has no other
        if self._search is None or self._searched != version:
            self._search, self._searched = CodeSearch(self.weight), version
        return self._search

    def nearest(self, vectors_ND: Tensor) -> Tensor:
        """Index of the nearest code of each vector, whatever else is looked up; shape (N,)."""
        return self.search.nearest(vectors_ND.detach().float()).codes_N

    def forward(self, vectors_ND: Tensor) -> Quantized:
        """Quantise; in training also learn from the vectors and count the step.

        A rank without vectors takes part in the statistics of the others.
        """
        vectors = vectors_ND.float()
        codes = self.nearest(vectors)
        chosen = F.embedding(codes, self.weight)
        commitment = F.mse_loss(vectors, chosen, reduction="sum") / max(1, vectors.numel())
        if self.training:
            self.learn(vectors.detach(), codes)
        passed = (vectors + (chosen - vectors).detach()).to(vectors_ND.dtype)
        return Quantized(passed, codes, commitment)

    @torch.no_grad()
    def learn(self, vectors_ND: Tensor, codes_N: Tensor) -> None:
        """Move each code towards the mean of its vectors; each R steps revive dead codes.

        Sums are added up in fp64, so that what fp32 keeps of them does not depend on how the
        vectors are spread over ranks.
        """
        config = self.config
        size = len(self.weight)
        counts = torch.bincount(codes_N, minlength=size)
        _all_reduce(counts)
        self.ema_count.mul_(config.decay).add_(counts, alpha=1 - config.decay)
        total = self.ema_count.sum()
        self.ema_count.add_(config.epsilon).mul_(total / (total + size * config.epsilon))
        self.ema_weight.mul_(config.decay)
        seen, sums = _summed(vectors_ND, codes_N, size)
        self.ema_weight.index_add_(0, seen, sums.float(), alpha=1 - config.decay)
        self.num_updates += 1
        if int(self.num_updates) % config.restart_every_steps == 0:
            self._restart(vectors_ND, chosen_K=counts > 0)
        torch.div(self.ema_weight, self.ema_count[:, None], out=self.weight)

    def _restart(self, vectors_ND: Tensor, *, chosen_K: Tensor) -> None:
        """Set every code of which nothing was seen for R steps to a vector of the batch.

        A code chosen in this very step is alive. Which vector of all ranks' together a code gets
        depends on the seed, the number of updates and the code's index, and so on no number of
        ranks; where there are enough, each gets another one.
        """
        dead = ((self.ema_count <= unseen_count(self.config)) & ~chosen_K).nonzero()[:, 0]
        first, total = _place_among_ranks(len(vectors_ND), self.weight.device)
        if dead.numel() == 0 or total == 0:
            return
        key = [int(self.seed), int(self.num_updates)]
        order = np.random.Generator(np.random.Philox(key=key)).permutation(total)
        picks = torch.from_numpy(order).to(dead.device)[dead % total] - first
        is_own = (picks >= 0) & (picks < len(vectors_ND))
        vectors = torch.zeros(len(dead), self.weight.shape[1], device=dead.device)
        vectors[is_own] = vectors_ND[picks[is_own]]
        _all_reduce(vectors)
        self.ema_weight[dead] = vectors
        self.ema_count[dead] = 1.0
        self.num_restarts += len(dead)

    @torch.no_grad()
    def set_by_kmeans(self, vectors_ND: Tensor, *, seed: int) -> None:
        """Start the codebook from the clusters of some vectors; equal inputs give equal codes."""
        centres, counts = kmeans(
            vectors_ND.float(),
            self.config.codebook_size,
            rounds=self.config.kmeans_rounds,
            seed=seed,
        )
        share = counts.clamp(min=1).float()
        self.ema_count.copy_(share / share.mean())
        self.ema_weight.copy_(centres * self.ema_count[:, None])
        self.weight.copy_(centres)
        self.is_ready.fill_(value=True)


def unseen_count(config: QuantizerConfig) -> float:
    """What a count of 1 is at most after R steps in which its code was never chosen.

    That is ``decay ** R``, and what Laplace smoothing added meanwhile: without the second part a
    code that was just revived would live for 2 R steps.
    """
    faded = config.decay**config.restart_every_steps
    smoothed = config.epsilon * (1 - faded) / (1 - config.decay)
    return (faded + smoothed) * (1 + 1e-4)


def kmeans(vectors_ND: Tensor, size: int, *, rounds: int, seed: int) -> tuple[Tensor, Tensor]:
    """Lloyd's rounds from randomly drawn vectors.

    Fewer vectors than clusters are drawn with a little noise. An empty cluster keeps its centre.

    Returns:
        Centres of shape (K, D) and how many vectors each has, (K,).
    """
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randperm(len(vectors_ND), generator=generator)
    picks = picks.repeat(-(-size // len(picks)))[:size].to(vectors_ND.device)
    centres = vectors_ND[picks]
    noise = torch.randn(centres.shape, generator=generator).to(centres.device)
    centres = centres + 1e-3 * vectors_ND.std() * noise
    counts = torch.zeros(size, dtype=torch.long, device=centres.device)
    for _ in range(rounds):
        nearest = CodeSearch(centres).nearest(vectors_ND).codes_N
        counts = torch.bincount(nearest, minlength=size)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors_ND)
        means = sums / counts.clamp(min=1)[:, None]
        centres = torch.where(counts[:, None] > 0, means, centres)
    return centres, counts


def _summed(vectors_ND: Tensor, codes_N: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Codes that may have been chosen, and the fp64 sum of the vectors of each, over all ranks."""
    width = vectors_ND.shape[1]
    if _has_ranks():
        sums = torch.zeros(size, width, dtype=torch.float64, device=vectors_ND.device)
        sums.index_add_(0, codes_N, vectors_ND.double())
        _all_reduce(sums)
        return torch.arange(size, device=vectors_ND.device), sums
    seen, places = torch.unique(codes_N, return_inverse=True)
    sums = torch.zeros(len(seen), width, dtype=torch.float64, device=vectors_ND.device)
    return seen, sums.index_add_(0, places, vectors_ND.double())


def _place_among_ranks(count: int, device: torch.device) -> tuple[int, int]:
    """How many vectors lower ranks have, and all ranks together."""
    if not _has_ranks():
        return 0, count
    counts = torch.zeros(dist.get_world_size(), dtype=torch.long, device=device)
    counts[dist.get_rank()] = count
    _all_reduce(counts)
    return int(counts[: dist.get_rank()].sum()), int(counts.sum())


def _has_ranks() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _all_reduce(tensor: Tensor) -> None:
    """Sum over ranks, where there are several."""
    if _has_ranks():
        dist.all_reduce(tensor)
