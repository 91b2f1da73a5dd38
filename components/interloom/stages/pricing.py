"""What a run cost, by the prices of the installation."""

from dataclasses import dataclass, replace

from interloom.ports.catalog import Usage
from interloom.ports.launcher import JobReport


@dataclass(frozen=True, slots=True)
class Prices:
    """What this installation pays, in its own currency.

    Attributes:
        node_kind: What stages run on, in the installation's words.
        gpu_hour: Of one GPU that is held.
        cpu_hour: Of one processor that computes.
        currency: As it is shown.
    """

    node_kind: str = ""
    gpu_hour: float = 0.0
    cpu_hour: float = 0.0
    currency: str = "USD"

    def usage(self, report: JobReport, *, num_gpus: int) -> Usage:
        """What a job used, with its price."""
        used = Usage(
            wall_s=report.wall_s,
            cpu_s=report.cpu_s,
            peak_rss_bytes=report.peak_rss_bytes,
            node_kind=self.node_kind,
            num_gpus=num_gpus,
        )
        return replace(used, price=self.of(used))

    def of(self, usage: Usage) -> float:
        """What this usage costs today."""
        return usage.gpu_hours * self.gpu_hour + usage.cpu_s / 3600 * self.cpu_hour
