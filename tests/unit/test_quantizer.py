import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from vector_quantize_pytorch import VectorQuantize

from interloom.config.speech_tokenizer import QuantizerConfig
from interloom.speech_tokenizer.quantizer import EmaCodebook, kmeans


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


_RANK = """
import sys, torch
from safetensors.torch import save_file
from interloom.config.speech_tokenizer import QuantizerConfig
from interloom.speech_tokenizer.quantizer import EmaCodebook
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
)
state = {}
for restart in (2, 100):
    config = QuantizerConfig(codebook_size=8, restart_every_steps=restart)
    codebook = EmaCodebook(config, 4).train()
    for step in range(7):
        vectors = torch.randn(20, 4, generator=torch.Generator().manual_seed(step))
        codebook(vectors[10 * rank : 10 * (rank + 1)])
    state |= {f"{restart}.{name}": tensor for name, tensor in codebook.state_dict().items()}
save_file(state, f"{folder}/rank-{rank}.safetensors")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_hold_the_codebook_that_one_rank_would(tmp_path: Path) -> None:
    alone = _codebook(8, 4, restart_every_steps=100).train()
    for step in range(7):
        alone(_vectors(20, 4, step))

    commands = [[sys.executable, "-c", _RANK, str(rank), str(tmp_path)] for rank in (0, 1)]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait(120) for process in running] == [0, 0]

    one, other = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in (0, 1))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(one[f"100.{name}"], tensor)
