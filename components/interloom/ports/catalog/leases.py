"""Leases: the right to execute one stage key, held by a heartbeat."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to execute one stage key. ``fence`` grows each time it changes hands."""

    stage_key: str
    owner: str
    fence: int


class Leases(Protocol):
    """Who may execute what; ``fence`` tells an owner that lost a lease from the next."""

    def acquire(
        self, stage_key: str, owner: str, *, ttl_s: float, dead_owner: str | None = None
    ) -> Lease | None:
        """Take the lease of a stage key; None while another owner's heartbeat is fresh.

        An owner that is known to be dead loses it at once.
        """
        ...

    def lease_owner(self, stage_key: str) -> str | None:
        """Who holds the lease of a stage key, fresh or not; None if nobody does."""
        ...

    def renew(self, lease: Lease) -> None:
        """Beat.

        Raises:
            LeaseLostError: Another owner has a higher fence.
        """
        ...

    def release(self, lease: Lease) -> None:
        """Give the lease back; nothing happens if it was lost."""
        ...

    def expire_leases(self, *, ttl_s: float) -> int:
        """Take leases from owners that were silent for so long; returns how many.

        Leases of runs that have ended are forgotten; those of stages keep their fence.
        """
        ...

    def leased(self, *, ttl_s: float) -> frozenset[str]:
        """The stage keys whose owner's heartbeat is fresh."""
        ...
