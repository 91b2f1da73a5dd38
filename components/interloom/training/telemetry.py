"""How fast training is: throughput, share of the machine's peak, waiting for data, memory.

These numbers hang on the clock, so they go to the catalog beside the curves and into no artifact.
"""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from interloom.ports.catalog import Metric
from interloom.ports.engine import TrainEngine

PREFIX = "telemetry/"
Clock = Callable[[], float]

# Dense bf16 peaks of the data sheets, in operations a second; others are measured.
_SHEETS: Mapping[str, float] = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}
_MEASURED_SIZE = 512
_MEASURED_ROUNDS = 5


@dataclass(slots=True)
class Meter:
    """Adds up one rank's work since the last point.

    Attributes:
        clock: Seconds that only grow.
        positions: Tokens that went through the model.
        flops: Operations of the model for them, forward and backward.
        data_wait_s: Time in which nothing but data was waited for.
        began_s: When the last point was made.
    """

    clock: Clock = time.perf_counter
    positions: float = 0.0
    flops: float = 0.0
    data_wait_s: float = 0.0
    began_s: float = field(default=0.0)

    def __post_init__(self) -> None:
        self.began_s = self.clock()

    def add(self, *, positions: int, flops: float, data_wait_s: float) -> None:
        """Count one micro-batch."""
        self.positions += positions
        self.flops += flops
        self.data_wait_s += data_wait_s

    def points(self, engine: TrainEngine, step: int, peak: Callable[[], float]) -> list[Metric]:
        """One point of each curve, over all ranks; begins anew.

        Args:
            engine: Sums over ranks.
            step: Of the points.
            peak: The most operations a second that one rank's device does.
        """
        now_s = self.clock()
        own = {
            "positions": self.positions,
            "flops": self.flops,
            "wait": self.data_wait_s,
            "wall": now_s - self.began_s,
            "peak": peak() if self.flops else 0.0,
        }
        memory = {
            f"memory/{rank:06d}": float(_memory_bytes()) if rank == engine.rank else 0.0
            for rank in range(engine.world_size)
        }
        total = engine.sum_over_ranks(own | memory)
        self.positions = self.flops = self.data_wait_s = 0.0
        self.began_s = now_s
        wall_s = max(total["wall"], 1e-9)
        found = {
            "data_wait_share": total["wait"] / wall_s,
            "peak_memory_bytes": max(total[name] for name in memory),
            "steps_wall_s": wall_s / engine.world_size,
        }
        if total["positions"]:
            found["tokens_per_s"] = total["positions"] * engine.world_size / wall_s
        if total["flops"]:
            found["mfu"] = total["flops"] * engine.world_size / wall_s / total["peak"]
        return [Metric(PREFIX + name, value, step) for name, value in sorted(found.items())]


def peak_flops_per_s() -> float:
    """The peak of this rank's device: of the data sheet for known GPUs, else that of a product."""
    import torch

    from interloom.training.linear import product

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        for known, peak in _SHEETS.items():
            if known in name:
                return peak
    device = "cuda" if torch.cuda.is_available() else "cpu"
    square = torch.ones(_MEASURED_SIZE, _MEASURED_SIZE, device=device)
    best_s = float("inf")
    for _ in range(_MEASURED_ROUNDS):
        began_s = time.perf_counter()
        float(product(square, square)[0, 0])
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * _MEASURED_SIZE**3 / best_s


def _memory_bytes() -> int:
    """The most memory this process has held: of the device, if there is one."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
