"""Who may execute which stage key: one row a key, with a heartbeat and a fence that only grows."""

import sqlalchemy as sa
from sqlalchemy import Connection, select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import Room, database_now_s, insert_one
from interloom.core.errors import LeaseLostError
from interloom.ports.catalog import Lease


class Leases(Room):
    """The leases of stage keys, by the clock of the database."""

    def acquire(
        self, stage_key: str, owner: str, *, ttl_s: float, dead_owner: str | None = None
    ) -> Lease | None:
        """Take a lease that is new, was given back, or whose owner is dead or was silent."""
        with self._database.transaction() as connection:
            now_s = database_now_s(connection)
            fresh = {"stage_key": stage_key, "owner": owner, "fence": 1, "heartbeat_s": now_s}
            if insert_one(connection, t.lease, fresh):
                return Lease(stage_key, owner, 1)
            row = (
                connection.execute(
                    select(t.lease).where(t.lease.c.stage_key == stage_key).with_for_update()
                )
                .mappings()
                .one()
            )
            is_free = row["owner"] in {"", dead_owner}
            if not is_free and now_s - row["heartbeat_s"] < ttl_s:
                return None
            fence = row["fence"] + 1
            connection.execute(
                sa.update(t.lease)
                .where(t.lease.c.stage_key == stage_key)
                .values(owner=owner, fence=fence, heartbeat_s=now_s)
            )
        return Lease(stage_key, owner, fence)

    def lease_owner(self, stage_key: str) -> str | None:
        """Who holds the lease of a stage key."""
        wanted = select(t.lease.c.owner).where(t.lease.c.stage_key == stage_key)
        with self._database.transaction(writes=False) as connection:
            return connection.execute(wanted).scalar_one_or_none() or None

    def renew(self, lease: Lease) -> None:
        """Beat."""
        with self._database.transaction() as connection:
            hold(connection, lease)

    def release(self, lease: Lease) -> None:
        """Give the lease back; its row stays, so that the fence goes on growing."""
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(t.lease)
                .where(t.lease.c.stage_key == lease.stage_key, t.lease.c.fence == lease.fence)
                .values(owner="")
            )

    def expire_leases(self, *, ttl_s: float) -> int:
        """Take leases from silent owners; forget those of runs that have ended."""
        run_has_ended = select(t.run.c.id).where(
            t.run.c.id == t.lease.c.stage_key, t.run.c.ended_at.is_not(None)
        )
        with self._database.transaction() as connection:
            silent = connection.execute(
                sa.update(t.lease)
                .where(
                    t.lease.c.owner != "",
                    t.lease.c.heartbeat_s < database_now_s(connection) - ttl_s,
                )
                .values(owner="")
            )
            connection.execute(sa.delete(t.lease).where(run_has_ended.exists()))
        return silent.rowcount

    def leased(self, *, ttl_s: float) -> frozenset[str]:
        """The stage keys whose owner's heartbeat is fresh."""
        with self._database.transaction(writes=False) as connection:
            fresh = select(t.lease.c.stage_key).where(
                t.lease.c.owner != "", t.lease.c.heartbeat_s > database_now_s(connection) - ttl_s
            )
            return frozenset(connection.execute(fresh).scalars())


def hold(connection: Connection, lease: Lease) -> None:
    """Beat, and keep the lease's row locked to the end of the transaction.

    Raises:
        LeaseLostError: It has another owner by now.
    """
    beaten = connection.execute(
        sa.update(t.lease)
        .where(
            t.lease.c.stage_key == lease.stage_key,
            t.lease.c.fence == lease.fence,
            t.lease.c.owner == lease.owner,
        )
        .values(heartbeat_s=database_now_s(connection))
    )
    if beaten.rowcount != 1:
        raise LeaseLostError(
            f"another runner took over stage key {lease.stage_key[:12]} "
            f"from {lease.owner} (fence {lease.fence}); its result will be used"
        )
