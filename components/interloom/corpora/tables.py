"""The tables that stages exchange, as Parquet shards, and how they are streamed.

Every table has ``id`` (unique in its artifact) and ``split``: ``train`` or ``heldout``. Shards of a
table are ``NAME/SPLIT-NNNNN.parquet``; rows keep their order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from interloom.core.artifacts import ArtifactRef
from interloom.ports.store import ArtifactDraft, ArtifactStore

Split = Literal["train", "heldout"]
Row = Mapping[str, Any]

WORD = pa.struct([("word", pa.string()), ("start", pa.int32()), ("stop", pa.int32())])

UTTERANCES = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("audio", pa.binary()),  # FLAC, 16 kHz mono, 16 bit
        ("num_samples", pa.int32()),
        ("words", pa.list_(WORD)),  # in samples; empty when unknown
        ("source", pa.string()),
        ("licence", pa.string()),
        ("facts", pa.list_(pa.string())),  # ids of the starter world's facts; else empty
    ]
)
LABELLED_UTTERANCES = UTTERANCES.append(  # of a corpus whose facts name its ``labelled_by``
    pa.field("labelled_by", pa.string())  # the recogniser; empty where a person wrote the text
)
DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("may_interleave", pa.bool_()),  # False for documents that stay written
        ("facts", pa.list_(pa.string())),
    ]
)
TURN = pa.struct([("role", pa.string()), ("text", pa.string())])  # role: user or assistant
DIALOGUES = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("turns", pa.list_(TURN)),
        ("source", pa.string()),
        ("licence", pa.string()),
    ]
)
CLOZE = pa.schema(  # tasks: which ending goes on from the context?
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),  # story, or written, woven, spoken for facts
        ("context", pa.string()),
        ("right", pa.string()),
        ("wrong", pa.string()),
    ]
)
ENDINGS = pa.schema(  # tasks: which of four endings goes on from the context?
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("context", pa.string()),
        ("right", pa.string()),
        ("wrong", pa.list_(pa.string())),
    ]
)
QUESTIONS = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),  # any of these counts
    ]
)
SPEECH_TOKENS = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("codes", pa.list_(pa.int32())),
        ("num_samples", pa.int32()),
        ("words", pa.list_(WORD)),  # in codec frames; empty when unknown
        ("source", pa.string()),
        ("licence", pa.string()),
        ("facts", pa.list_(pa.string())),
    ]
)

SPOKEN_SPAN = pa.struct(
    [
        ("span_id", pa.string()),
        ("word_start", pa.int32()),
        ("word_stop", pa.int32()),
        ("byte_start", pa.int32()),  # in the UTF-8 text, with the space before the first word
        ("byte_stop", pa.int32()),
        ("id_start", pa.int32()),  # in ids, markers included; both 0 if it stayed text
        ("id_stop", pa.int32()),
        ("num_codes", pa.int32()),
        ("cut", pa.bool_()),  # shortened, so that the document reaches its share and no more
        ("outcome", pa.string()),  # spoken, or why it stayed text
        ("attempts", pa.int32()),
    ]
)
INTERLEAVED = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("ids", pa.list_(pa.int32())),  # joint ids
        ("source", pa.string()),
        ("licence", pa.string()),
        ("text", pa.string()),
        ("num_words", pa.int32()),
        ("spans", pa.list_(SPOKEN_SPAN)),
        ("policy", pa.string()),  # kind and version of the rule that chose the spans
        ("made_by", pa.string()),  # kind:id of the text-to-token model, or of recordings' tokens
        ("tokenizer", pa.string()),  # id of the speech tokenizer whose codes stand in ids
        ("seed", pa.int64()),
        ("precision", pa.string()),
        ("engine", pa.string()),
    ]
)


def write_table(
    draft: ArtifactDraft,
    name: str,
    schema: pa.Schema,
    rows: Iterable[Row],
    *,
    rows_per_shard: int = 4096,
) -> int:
    """Write rows to ``NAME/SPLIT-NNNNN.parquet`` shards in bounded memory.

    The rows of each split keep their order. The bytes depend on the rows alone. Without rows there
    is one shard without rows.

    Returns:
        The number of rows written.
    """
    pending: dict[str, list[Row]] = {}
    written: dict[str, int] = {}
    total = 0

    def flush(split: str) -> None:
        index = written.get(split, 0)
        _write_shard(draft, f"{name}/{split}-{index:05d}.parquet", schema, pending.pop(split))
        written[split] = index + 1

    for row in rows:
        pending.setdefault(row["split"], []).append(row)
        total += 1
        if len(pending[row["split"]]) == rows_per_shard:
            flush(row["split"])
    if not total:
        pending["train"] = []
    for split in sorted(pending):
        flush(split)
    return total


def _write_shard(draft: ArtifactDraft, path: str, schema: pa.Schema, rows: list[Row]) -> None:
    """One Parquet file with its counts."""
    with draft.shard(path) as shard:
        pq.write_table(
            pa.Table.from_pylist([dict(row) for row in rows], schema=schema),
            shard.path,
            row_group_size=1024,
            compression="zstd",
        )
        counts = {"rows": len(rows)}
        if "num_samples" in schema.names:
            counts["samples"] = sum(row["num_samples"] for row in rows)
        if "codes" in schema.names:
            counts["speech_tokens"] = sum(len(row["codes"]) for row in rows)
        if schema.equals(INTERLEAVED):
            counts |= _interleaved_counts(rows)
        shard.count(**counts)


def _interleaved_counts(rows: Sequence[Row]) -> dict[str, int]:
    """Speech and text tokens, markers in neither, and spans that are spoken."""
    spans = [span for row in rows for span in row["spans"] if span["num_codes"]]
    speech = sum(span["num_codes"] for span in spans)
    text = sum(len(row["ids"]) for row in rows) - speech - 2 * len(spans)
    return {"spans": len(spans), "speech_tokens": speech, "text_tokens": text}


def read_table(
    store: ArtifactStore,
    ref: ArtifactRef,
    name: str,
    *,
    split: Split | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Stream the rows of a table, shard by shard, in order; no shard at all gives no row."""
    prefix = f"{name}/" if split is None else f"{name}/{split}-"
    for shard in store.manifest(ref).shards_under(prefix):
        with pq.ParquetFile(store.local_path(shard)) as file:
            for batch in file.iter_batches(batch_size=512, columns=columns):
                yield from batch.to_pylist()


def batched(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Lists of ``size`` rows, the last one shorter."""
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch
