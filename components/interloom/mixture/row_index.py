"""What an artifact of packed rows says of itself."""

import json
from dataclasses import asdict, dataclass

from interloom.core.errors import DataError


@dataclass(frozen=True, slots=True)
class RowIndex:
    """What ``index.json`` says.

    Attributes:
        row_length: L.
        pad: Id that fills a row up.
        vocabulary: Digest of the layout that the tokens were made with.
        source_names: What ``ORIGIN``'s source counts.
        licence_names: What its licence counts.
        shard_rows: Rows of each shard.
        phase_rows: Rows of each phase.
        row_units: What a row is full of, if that is not its tokens: rows then differ in length, and
            a batch is as long as the longest of its rows.
    """

    row_length: int
    pad: int
    vocabulary: str
    source_names: tuple[str, ...]
    licence_names: tuple[str, ...]
    shard_rows: tuple[int, ...]
    phase_rows: tuple[int, ...]
    row_units: int | None = None

    def to_json(self) -> str:
        """For the artifact."""
        held = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(held, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "RowIndex":
        """Read what ``to_json`` gave.

        Raises:
            DataError: It is something else.
        """
        try:
            body = json.loads(text)
            return cls(
                row_length=body["row_length"],
                pad=body["pad"],
                vocabulary=body["vocabulary"],
                source_names=tuple(body["source_names"]),
                licence_names=tuple(body["licence_names"]),
                shard_rows=tuple(body["shard_rows"]),
                phase_rows=tuple(body["phase_rows"]),
                row_units=body.get("row_units"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the index of packed rows cannot be read: {error}") from error
