"""The outbox: events that still have to be told, in the order in which they happened."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import Room, database_now_s
from interloom.ports.catalog import OutboxEntry

_ERROR_LENGTH = 500


class OutboxRoom(Room):
    """Events on their way out; their times of retry are by the database's clock."""

    def due_events(self, *, limit: int = 100) -> Sequence[OutboxEntry]:
        """The oldest events, unless the oldest one waits for its next attempt."""
        wanted = (
            select(t.run_event, t.outbox.c.num_attempts, t.outbox.c.retry_at_s)
            .join(t.outbox, t.outbox.c.seq == t.run_event.c.seq)
            .order_by(t.outbox.c.seq)
            .limit(limit)
        )
        with self._database.transaction(writes=False) as connection:
            rows = connection.execute(wanted).mappings().all()
            if rows and rows[0]["retry_at_s"] > database_now_s(connection):
                return []
        return [
            OutboxEntry(row["seq"], row["run_id"], row["type"], row["at"], row["num_attempts"])
            for row in rows
        ]

    def event_told(self, seq: int) -> None:
        """Forget an event that was told."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(t.outbox).where(t.outbox.c.seq == seq))

    def event_failed(self, seq: int, error: str, *, retry_in_s: float) -> None:
        """Keep an event for a later attempt."""
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(t.outbox)
                .where(t.outbox.c.seq == seq)
                .values(
                    num_attempts=t.outbox.c.num_attempts + 1,
                    retry_at_s=database_now_s(connection) + retry_in_s,
                    last_error=error[:_ERROR_LENGTH],
                )
            )

    def num_untold(self) -> int:
        """How many events wait."""
        with self._database.transaction(writes=False) as connection:
            count = select(sa.func.count()).select_from(t.outbox)
            return int(connection.execute(count).scalar_one())
