"""Where the ranks of a stage are: each writes its address, all read those of the others."""

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy import select

from interloom.adapters.catalog import tables as t
from interloom.adapters.catalog.database import Database, Room, database_now_s, insert_one

_KEPT_S = 7 * 86400.0


class Rendezvous(Room):
    """The meetings of ranks; one row a rank, which the first to come keeps."""

    @classmethod
    def connect(cls, url: str) -> "Rendezvous":
        """Open the catalog at ``url`` for meetings alone; its schema is left as it is."""
        return cls(Database(url))

    def announce(self, meeting: str, rank: int, *, member: str, address: str) -> bool:
        """Tell the others where this rank is; False if another pod was this rank before.

        Meetings of a week ago are forgotten.
        """
        with self._database.transaction() as connection:
            now_s = database_now_s(connection)
            connection.execute(
                sa.delete(t.rendezvous).where(t.rendezvous.c.since_s < now_s - _KEPT_S)
            )
            row = {
                "meeting": meeting,
                "rank": rank,
                "member": member,
                "address": address,
                "since_s": now_s,
            }
            if insert_one(connection, t.rendezvous, row):
                return True
            first = select(t.rendezvous.c.member).where(
                t.rendezvous.c.meeting == meeting, t.rendezvous.c.rank == rank
            )
            return bool(connection.execute(first).scalar_one() == member)

    def addresses(self, meeting: str) -> Mapping[int, str]:
        """Rank to address, of those that have come."""
        wanted = select(t.rendezvous.c.rank, t.rendezvous.c.address).where(
            t.rendezvous.c.meeting == meeting
        )
        with self._database.transaction(writes=False) as connection:
            return {row.rank: row.address for row in connection.execute(wanted)}

    def close(self) -> None:
        """Close all connections."""
        self._database.close()
