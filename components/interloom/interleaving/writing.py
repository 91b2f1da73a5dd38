"""Write the judged shards of an interleaved corpus, in order, with all that is left out."""

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from interloom.core.artifacts import canonical_json
from interloom.core.errors import DataError
from interloom.corpora.units import Unit
from interloom.interleaving.judging import Judged, ShardJudge
from interloom.interleaving.making import Held, Made, Tally, read_made
from interloom.ports.gate import CheckResult
from interloom.ports.progress import Progress
from interloom.ports.store import ArtifactDraft
from interloom.quality.shards import whole_sums

TABLE, QUARANTINE = "interleaved", "quarantine"
REASONS, REPORT = "quarantine.json", "report.json"


@dataclass(slots=True)
class Written:
    """What came of a corpus.

    Attributes:
        tally: Of all documents.
        held: What the published rows hold.
        licences: Of all rows, those in quarantine too: the artifact holds them.
        left_out: Rows in quarantine, singly or with their shard.
        quarantined: Shards in quarantine.
        checks: Verdicts; set at the end.
    """

    tally: Tally = field(default_factory=Tally)
    held: Held = field(default_factory=Held)
    licences: set[str] = field(default_factory=set)
    left_out: int = 0
    quarantined: int = 0
    checks: tuple[CheckResult, ...] = ()


def write_shards(
    units: Iterable[Unit],
    folder: Path,
    judge: ShardJudge,
    draft: ArtifactDraft,
    progress: Progress,
) -> Written:
    """Judge units as they are made, and write them into an artifact.

    Rows that pass are in table ``interleaved``, a shard a unit; others in table ``quarantine`` with
    their reasons in ``quarantine.json``; verdicts and distributions are in ``report.json``.

    Raises:
        DataError: No row came of the whole corpus.
    """
    written = Written()
    ids, reports = list[np.ndarray[Any, np.dtype[np.uint64]]](), list[dict[str, Any]]()
    reasons: dict[str, dict[str, Any]] = {"rows": {}, "shards": {}}
    for unit in units:
        made = read_made(folder / unit.name)
        judged = judge.judge(unit.name, made)
        _write(judged, folder / unit.name, draft)
        _add(written, made, judged)
        _explain(judged, reasons)
        reports.append(judged.to_dict(made))
        ids.append(_hashes(made.table))
        progress.update(
            written.tally.documents, None, f"{written.held.speech_tokens} speech tokens"
        )
    if not written.held.rows and not written.left_out:
        raise DataError(_nothing(written.tally))
    every = np.concatenate(ids)
    sums = whole_sums(
        list(judge.sums.values()),
        num_rows=written.held.rows,
        left_out=written.left_out,
        twice=len(every) - len(np.unique(every)),
    )
    written.checks = judge.results(sums)
    write_json(draft, REASONS, reasons)
    write_json(draft, REPORT, {"shards": reports, "whole": sums})
    return written


def write_rows(draft: ArtifactDraft, table: str, name: str, rows: pa.Table, held: Held) -> None:
    """One shard of a table, with its counts; the same rows give the same bytes."""
    with draft.shard(f"{table}/train-{name}.parquet") as shard:
        pq.write_table(rows, shard.path, row_group_size=1024, compression="zstd")
        if table == TABLE:
            shard.count(**held.counts())
        else:
            shard.count(quarantined=rows.num_rows)


def _write(judged: Judged, path: Path, draft: ArtifactDraft) -> None:
    """The shards of one unit; a whole one is the worker's file as it is."""
    if judged.kept.num_rows and not judged.left_out.num_rows:
        with draft.shard(f"{TABLE}/train-{judged.name}.parquet") as shard:
            shutil.copyfile(path.with_name(f"{path.name}.parquet"), shard.path)
            shard.count(**judged.held.counts())
        return
    if judged.kept.num_rows:
        write_rows(draft, TABLE, judged.name, judged.kept, judged.held)
    if judged.left_out.num_rows:
        write_rows(draft, QUARANTINE, judged.name, judged.left_out, Held())


def _add(written: Written, made: Made, judged: Judged) -> None:
    """Add one shard to the sums."""
    written.tally += made.tally
    written.held += judged.held
    written.licences |= set(made.table["licence"].unique().to_pylist())
    written.left_out += judged.left_out.num_rows
    written.quarantined += judged.verdict == "quarantined"


def _explain(judged: Judged, reasons: dict[str, dict[str, Any]]) -> None:
    """Say why rows are not published."""
    if judged.verdict == "quarantined":
        reasons["shards"][judged.name] = list(judged.failed)
    reasons["rows"] |= {row_id: list(checks) for row_id, checks in judged.broken.items()}


def _hashes(table: pa.Table) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A number for each row's id."""
    digests = [hashlib.sha256(one.encode()).digest()[:8] for one in table["id"].to_pylist()]
    return np.frombuffer(b"".join(digests), np.uint64)


def write_json(draft: ArtifactDraft, path: str, body: dict[str, Any]) -> None:
    """One shard of canonical JSON."""
    with draft.shard(path) as shard:
        shard.path.write_bytes(canonical_json(body))


def _nothing(tally: Tally) -> str:
    """Why there is no row."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.left_out.items()))
    outcomes = ", ".join(f"{count} {one}" for one, count in sorted(tally.outcomes.items()))
    return (
        f"no document could be interleaved: of {tally.documents} taken, {reasons or 'none'} "
        f"(spans: {outcomes or 'none'}); look at the corpus, at interleave.policy and at "
        "text_to_token's metrics"
    )
