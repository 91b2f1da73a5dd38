"""A computation that is recorded once and played again: on a GPU, as a CUDA graph.

A step of decoding is a hundred small kernels, and to launch them one by one takes longer than they
do. A recording reads its inputs from places that stay, so there is one for each set of shapes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

_WARM_UPS = 2  # runs before a recording, in which libraries allocate what they keep

Compute = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True, slots=True)
class Recording:
    """What was computed once.

    Attributes:
        play: Computes it again, from what stands in the inputs now.
        output: Where the result then stands.
    """

    play: Callable[[], object]
    output: Tensor


Recorder = Callable[[Callable[[], Tensor]], Recording]


class Replays:
    """A computation of tensors alone, recorded for each set of their shapes.

    Computed twice from equal inputs, it must leave behind what it leaves if it is computed once.
    """

    def __init__(self, compute: Compute, recorder: Recorder, device: torch.device) -> None:
        self._compute, self._recorder, self._device = compute, recorder, device
        self._known: dict[tuple[torch.Size, ...], tuple[list[Tensor], Recording]] = {}

    @property
    def num_recordings(self) -> int:
        """Sets of shapes so far."""
        return len(self._known)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The result, in a place that the next call may overwrite; inputs may be anywhere."""
        shapes = tuple(one.shape for one in inputs)
        if shapes not in self._known:
            held = [one.to(self._device, copy=True) for one in inputs]
            self._known[shapes] = held, self._recorder(partial(self._compute, held))
        held, recording = self._known[shapes]
        for place, one in zip(held, inputs, strict=True):
            place.copy_(one)
        recording.play()
        return recording.output


class CudaRecorder:
    """Records CUDA graphs, which share the memory of what they forget: no two play at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Recording:
        """Compute on a stream of its own some times, then once more while it is recorded."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        here = torch.cuda.current_stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                compute()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = compute()
        return Recording(graph.replay, output)
