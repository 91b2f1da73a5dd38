"""Reading rows of table ``INTERLEAVED``: back to the text they were made from."""

from collections.abc import Iterator, Mapping
from typing import Any

from interloom.core.errors import DataError
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


def _rebuilt(row: Row, data: bytes, text_tokenizer: TextTokenizer) -> Iterator[bytes]:
    """The bytes of each part, in order."""
    at = 0
    for span in row["spans"]:
        if span["outcome"] == SPOKEN:
            yield text_tokenizer.decode_bytes(row["ids"][at : span["id_start"]])
            yield data[span["byte_start"] : span["byte_stop"]]
            at = span["id_stop"]
    yield text_tokenizer.decode_bytes(row["ids"][at:])
