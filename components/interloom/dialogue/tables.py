"""The tables of spoken dialogues: what was spoken, and what was dropped for which reason."""

import pyarrow as pa

SPOKEN_TABLE = "dialogues"
DROPPED_TABLE = "dropped"

SPOKEN_TURN = pa.struct(
    [("role", pa.string()), ("text", pa.string()), ("codes", pa.list_(pa.int32()))]
)
SPOKEN_DIALOGUES = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("turns", pa.list_(SPOKEN_TURN)),  # user and assistant in turns, the user first
        ("source", pa.string()),
        ("licence", pa.string()),
    ]
)
DROPPED = pa.schema([("id", pa.string()), ("split", pa.string()), ("reason", pa.string())])
