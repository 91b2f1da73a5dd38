"""Reading rows of table ``INTERLEAVED``: back to the text they were made from."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import DataError, MissingError
from interloom.ports.store import ArtifactStore
from interloom.text.bpe import TextTokenizer

SPOKEN = "spoken"  # the outcome of a span that was not refused

Row = Mapping[str, Any]


def rebuild(row: Row, text_tokenizer: TextTokenizer) -> str:
    """The document's text: written parts from the ids, spoken ones from the source's bytes.

    Raises:
        DataError: The ids and the offsets do not fit together.
    """
    data = row["text"].encode()
    try:
        return b"".join(_rebuilt(row, data, text_tokenizer)).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"row {row['id']}: a span begins or ends inside a character") from error


def find_row(store: ArtifactStore, ref: ArtifactRef, table: str, row_id: str) -> dict[str, Any]:
    """The row of a table with this id; reads the ids, and of the rest its row group only.

    Raises:
        MissingError: There is none; the message shows what ids look like.
    """
    seen: list[str] = []
    for shard in store.manifest(ref).shards_under(f"{table}/"):
        with pq.ParquetFile(store.local_path(shard)) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"])["id"]
                if (at := pc.index(ids, row_id).as_py()) >= 0:
                    found: dict[str, Any] = file.read_row_group(group).slice(at, 1).to_pylist()[0]
                    return found
                seen = seen or ids.slice(0, 3).to_pylist()
    raise MissingError(
        f"{ref} has no row {row_id!r}; its rows are called {', '.join(seen) or 'nothing'}, ..."
    )


def source_text(store: ArtifactStore, ref: ArtifactRef, row_id: str) -> str | None:
    """The document that a row was made from, in the corpus; None if the store has it no more."""
    tables = {ArtifactKind.TEXT_CORPUS: "documents", ArtifactKind.SPEECH_TOKENS: "tokens"}
    recorded = str(store.manifest(ref).facts.get("made_by", "")).startswith("speech_tokens")
    wanted = ArtifactKind.SPEECH_TOKENS if recorded else ArtifactKind.TEXT_CORPUS
    for parent in store.manifest(ref).parents:
        if parent.kind is wanted:
            try:
                return str(find_row(store, parent, tables[wanted], row_id)["text"])
            except MissingError:
                return None
    return None


def _rebuilt(row: Row, data: bytes, text_tokenizer: TextTokenizer) -> Iterator[bytes]:
    """The bytes of each part, in order."""
    at = 0
    for span in row["spans"]:
        if span["outcome"] == SPOKEN:
            yield text_tokenizer.decode_bytes(row["ids"][at : span["id_start"]])
            yield data[span["byte_start"] : span["byte_stop"]]
            at = span["id_stop"]
    yield text_tokenizer.decode_bytes(row["ids"][at:])
