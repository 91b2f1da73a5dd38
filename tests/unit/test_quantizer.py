import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from vector_quantize_pytorch import VectorQuantize

from interloom.config.speech_tokenizer import QuantizerConfig
from interloom.speech_tokenizer.quantizer import EmaCodebook, kmeans, unseen_count
from interloom.speech_tokenizer.search import CodeSearch


def _vectors(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def _codebook(size: int, width: int, **changes: Any) -> EmaCodebook:
    return EmaCodebook(QuantizerConfig(codebook_size=size, **changes), width)


def test_codes_codebook_and_commitment_follow_an_independent_implementation() -> None:
    ours = _codebook(16, 8, decay=0.9, restart_every_steps=1000).train()
    theirs = VectorQuantize(
        dim=8, codebook_size=16, decay=0.9, eps=1e-5, commitment_weight=1.0
    ).train()
    inner = theirs._codebook
    inner.embed.data.copy_(ours.weight[None])
    inner.embed_avg.data.copy_(ours.weight[None])
    inner.cluster_size.data.fill_(1.0)
    inner.initted.data.fill_(1)

    for step in range(5):
        vectors = _vectors(64, 8, seed=step)
        mine = ours(vectors)
        quantized, codes, commitment = theirs(vectors[None])

        assert torch.equal(mine.codes_N, codes[0])
        torch.testing.assert_close(mine.vectors_ND, quantized[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mine.commitment, commitment.squeeze(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.weight, inner.embed[0], atol=1e-4, rtol=1e-4)


def test_the_gradient_passes_straight_through() -> None:
    vectors = _vectors(4, 8).requires_grad_()

    _codebook(16, 8).eval()(vectors).vectors_ND.sum().backward()

    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad, torch.ones(4, 8))


@given(st.integers(0, 50))
@settings(deadline=None, max_examples=20)
def test_the_code_is_the_nearest_one(seed: int) -> None:
    codebook, vectors = _codebook(12, 4), _vectors(9, 4, seed)

    nearest = torch.cdist(vectors, codebook.weight).argmin(1)

    assert torch.equal(codebook.nearest(vectors), nearest)


def test_a_code_that_nothing_chose_for_r_steps_becomes_a_vector_of_the_batch() -> None:
    codebook = _codebook(3, 2, decay=0.9, restart_every_steps=10).train()
    start = torch.tensor([[0.0, 0.0], [5.0, 5.0], [90.0, 90.0]])
    codebook.weight.copy_(start)
    codebook.ema_weight.copy_(start)
    vectors = torch.tensor([[0.1, 0.0], [5.0, 5.2]])

    for _ in range(9):
        codebook(vectors)
    assert codebook.weight[2].tolist() == pytest.approx([90.0, 90.0], rel=1e-3)
    codebook(vectors)

    assert codebook.weight[2].tolist() in [pytest.approx(row.tolist(), rel=1e-6) for row in vectors]
    assert float(codebook.ema_count[2]) == 1.0


def test_a_code_chosen_in_the_very_step_of_a_restart_stays() -> None:
    codebook = _codebook(2, 1, decay=0.5, restart_every_steps=4).train()
    codebook.weight.copy_(torch.tensor([[0.0], [10.0]]))
    codebook.ema_weight.copy_(codebook.weight)
    many = torch.zeros(1, 1)

    for _ in range(3):
        codebook(many)
    codebook.ema_count[1] = 1e-3
    codebook.ema_weight[1] = 1e-2
    codebook(torch.tensor([[10.0]]))

    assert float(codebook.weight[1]) == pytest.approx(10.0, rel=1e-2)
    assert float(codebook.ema_count[1]) < 1.0


def test_more_dead_codes_than_vectors_are_all_revived() -> None:
    codebook = _codebook(50, 2, decay=0.5, restart_every_steps=2).train()
    codebook.weight.add_(100.0)
    codebook.ema_weight.copy_(codebook.weight)

    for _ in range(2):
        codebook(_vectors(3, 2))

    assert int((codebook.ema_count >= 0.25).sum()) == 50


def test_a_cast_of_the_model_leaves_the_codebook_in_fp32() -> None:
    codebook = _codebook(4, 2)
    before = codebook.weight.clone()

    codebook.bfloat16()

    assert codebook.weight.dtype == torch.float32
    assert torch.equal(codebook.weight, before)


def test_a_stopped_quantiser_goes_on_from_its_buffers_as_if_never_stopped() -> None:
    whole = _codebook(8, 4, restart_every_steps=3).train()
    for step in range(8):
        whole(_vectors(5, 4, step))

    first = _codebook(8, 4, restart_every_steps=3).train()
    for step in range(4):
        first(_vectors(5, 4, step))
    second = _codebook(8, 4, restart_every_steps=3).train()
    second.load_state_dict(first.state_dict())
    for step in range(4, 8):
        second(_vectors(5, 4, step))

    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_kmeans_finds_clusters_that_are_far_apart() -> None:
    corners = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = (corners[:, None] + 0.1 * _vectors(30, 2).reshape(3, 10, 2)).reshape(-1, 2)

    centres, counts = kmeans(vectors, 12, rounds=10, seed=1)

    assert int(counts.sum()) == 30
    assert float(torch.cdist(vectors, centres).min(1).values.max()) < 1.0


def test_kmeans_of_fewer_vectors_than_codes_gives_all_codes() -> None:
    centres, counts = kmeans(_vectors(3, 2), 8, rounds=2, seed=0)

    assert centres.shape == (8, 2)
    assert int(counts.sum()) == 3


STEPS, SIZES = 50, (7, 0, 26)  # vectors of each of three ranks in each step


class _OneHot:
    """The published quantiser written out: one-hot products, everything that can be in fp64."""

    def __init__(self, codebook: EmaCodebook, *, seed: int) -> None:
        self.config, self.seed = codebook.config, seed
        self.weight = codebook.weight.clone()
        self.count = codebook.ema_count.clone()
        self.sums = codebook.ema_weight.double()

    def step(self, vectors: torch.Tensor, number: int) -> torch.Tensor:
        decay, size = self.config.decay, len(self.weight)
        codes = torch.cdist(vectors.double(), self.weight.double()).argmin(1)
        chosen = torch.nn.functional.one_hot(codes, size)
        self.count = self.count * decay + (1 - decay) * chosen.sum(0).float()
        total = self.count.sum()
        smoothed = self.count + self.config.epsilon
        self.count = smoothed * (total / (total + size * self.config.epsilon))
        self.sums = self.sums * decay + (1 - decay) * chosen.double().T @ vectors.double()
        if number % self.config.restart_every_steps == 0:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, number]))
            order = rng.permutation(len(vectors))
            for code in range(size):
                if self.count[code] <= unseen_count(self.config) and not chosen[:, code].any():
                    self.count[code] = 1.0
                    self.sums[code] = vectors[order[code % len(vectors)]].double()
        self.weight = (self.sums / self.count[:, None].double()).float()
        return codes


def _of_step(step: int) -> torch.Tensor:
    return _vectors(sum(SIZES), 5, seed=1000 + step) * (1 + step % 3)


def _reference() -> tuple[_OneHot, torch.Tensor]:
    """The one-hot quantiser after all steps, and all codes that it chose."""
    reference = _OneHot(_codebook(41, 5, restart_every_steps=8), seed=3)
    codes = [reference.step(_of_step(step), step + 1) for step in range(STEPS)]
    return reference, torch.stack(codes)


def _agrees(state: Mapping[str, torch.Tensor], reference: _OneHot) -> None:
    assert torch.equal(state["ema_count"], reference.count)
    sums = state["ema_weight"].double()
    torch.testing.assert_close(sums, reference.sums, rtol=1e-6, atol=1e-6)
    assert int(state["num_restarts"]) > 10


def test_fifty_steps_are_those_of_a_plain_one_hot_quantiser() -> None:
    codebook = _codebook(41, 5, restart_every_steps=8).train()
    codebook.seed.fill_(3)
    reference, expected = _reference()

    codes = torch.stack([codebook(_of_step(step)).codes_N for step in range(STEPS)])

    assert torch.equal(codes, expected)
    _agrees(codebook.state_dict(), reference)


_RANK = """
import sys, torch
from safetensors.torch import save_file
from interloom.config.speech_tokenizer import QuantizerConfig
from interloom.speech_tokenizer.quantizer import EmaCodebook
rank, world, folder, steps = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
sizes = [int(size) for size in sys.argv[5:]]
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
)
codebook = EmaCodebook(QuantizerConfig(codebook_size=41, restart_every_steps=8), 5).train()
codebook.seed.fill_(3)
first = sum(sizes[:rank])
codes = []
for step in range(steps):
    drawn = torch.randn(33, 5, generator=torch.Generator().manual_seed(1000 + step))
    vectors = (drawn * (1 + step % 3))[first : first + sizes[rank]]
    codes.append(codebook(vectors).codes_N)
save_file({"codes": torch.stack(codes), **codebook.state_dict()}, f"{folder}/{rank}.safetensors")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(13, 20), SIZES])
def test_several_ranks_hold_the_codebook_that_one_rank_would(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    alone = _codebook(41, 5, restart_every_steps=8).train()
    alone.seed.fill_(3)
    expected = torch.stack([alone(_of_step(step)).codes_N for step in range(STEPS)])

    arguments = [str(tmp_path), str(STEPS), *map(str, sizes)]
    running = [
        subprocess.Popen([sys.executable, "-c", _RANK, str(rank), str(len(sizes)), *arguments])
        for rank in range(len(sizes))
    ]
    assert [process.wait(120) for process in running] == [0] * len(sizes)

    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(len(sizes))]
    codes = torch.cat([one.pop("codes") for one in ranks], dim=1)
    assert torch.equal(codes, expected)
    for state in ranks:
        _agrees(state, _reference()[0])
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-6, atol=1e-7)


def test_which_vector_revives_a_code_depends_on_seed_step_and_code() -> None:
    revived = []
    for seed in (0, 0, 1):
        codebook = _codebook(6, 2, decay=0.5, restart_every_steps=2).train()
        codebook.seed.fill_(seed)
        codebook.weight.add_(100.0)
        codebook.ema_weight.copy_(codebook.weight)
        for step in range(2):
            codebook(_vectors(30, 2, seed=step))
        revived.append(codebook.ema_weight[1:].clone())

    assert torch.equal(revived[0], revived[1])
    assert not torch.equal(revived[0], revived[2])
    assert len(revived[0].unique(dim=0)) == 5  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("spread", [0.0, 300.0])
@pytest.mark.parametrize("count", [1, 300, 700])
def test_a_search_gives_the_exactly_nearest_code_and_the_gap(count: int, spread: float) -> None:
    weight = _vectors(200, 16) + spread  # a common offset is what hidden states have
    vectors = _vectors(count, 16, seed=1) + spread

    found = CodeSearch(weight).nearest(vectors, within_N=torch.full((count,), 1e9))

    distances = torch.cdist(vectors.double(), weight.double()).square() / 2
    two = distances.topk(2, largest=False)
    assert torch.equal(found.codes_N, two.indices[:, 0])
    torch.testing.assert_close(found.gaps_N, two.values[:, 1] - two.values[:, 0])


def test_of_equal_codes_the_first_is_chosen() -> None:
    found = CodeSearch(torch.ones(300, 4)).nearest(torch.zeros(3, 4))

    assert found.codes_N.tolist() == [0, 0, 0]
    assert found.gaps_N.tolist() == [0.0, 0.0, 0.0]


def test_a_vector_that_is_not_finite_does_not_end_the_search() -> None:
    vectors = torch.tensor([[torch.nan, 0.0], [0.0, torch.inf], [1.0, 1.0]])

    codes = CodeSearch(_vectors(5, 2)).nearest(vectors).codes_N

    assert 0 <= int(codes.min()) <= int(codes.max()) < 5


def test_a_search_follows_the_codebook_when_that_is_loaded_anew() -> None:
    codebook, other = _codebook(8, 4), _codebook(8, 4)
    vectors = _vectors(9, 4)
    codebook.nearest(vectors)
    other.weight.copy_(codebook.weight.flip(0))

    codebook.load_state_dict(other.state_dict())

    assert torch.equal(codebook.nearest(vectors), other.nearest(vectors))
