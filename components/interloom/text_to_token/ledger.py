"""What synthesis cost: a fact of a run for the catalog, never part of what it made."""

from collections import Counter
from dataclasses import dataclass, field

from interloom.ports.catalog import Metric


@dataclass(frozen=True, slots=True)
class Ledger:
    """Sums over spans.

    Attributes:
        spans: Asked for.
        accepted: Of them, spoken in the end.
        attempts: Made at all spans together.
        retries: Of them, after a refusal.
        drawn_tokens: Codes decoded, thrown away or not.
        accepted_tokens: Codes of the spans that were accepted.
        read_back: Attempts that were read back.
        refusals: Refused attempts, and texts that were not tried, by reason.
        cpu_s: Processor time of decoding and reading back, of this process.
    """

    spans: int = 0
    accepted: int = 0
    attempts: int = 0
    retries: int = 0
    drawn_tokens: int = 0
    accepted_tokens: int = 0
    read_back: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(
            self.spans + other.spans,
            self.accepted + other.accepted,
            self.attempts + other.attempts,
            self.retries + other.retries,
            self.drawn_tokens + other.drawn_tokens,
            self.accepted_tokens + other.accepted_tokens,
            self.read_back + other.read_back,
            self.refusals + other.refusals,
            self.cpu_s + other.cpu_s,
        )

    def metrics(self, prefix: str) -> tuple[Metric, ...]:
        """One metric a sum, and the cost of what was accepted, if anything was.

        What hangs on the clock is named ``telemetry/PREFIX/...``.
        """
        values: dict[str, float] = {
            "spans": self.spans,
            "accepted": self.accepted,
            "attempts": self.attempts,
            "retries": self.retries,
            "drawn_tokens": self.drawn_tokens,
            "accepted_tokens": self.accepted_tokens,
            "read_back": self.read_back,
        }
        clocked = {"cpu_s": self.cpu_s}
        if self.accepted_tokens:
            values["drawn_per_accepted_token"] = self.drawn_tokens / self.accepted_tokens
            clocked["cpu_ms_per_accepted_token"] = 1000 * self.cpu_s / self.accepted_tokens
        values |= {
            f"refused/{reason.replace(' ', '_')}": count
            for reason, count in sorted(self.refusals.items())
        }
        named = {f"{prefix}/{name}": value for name, value in values.items()}
        named |= {f"telemetry/{prefix}/{name}": value for name, value in clocked.items()}
        return tuple(Metric(name, float(value)) for name, value in named.items())
