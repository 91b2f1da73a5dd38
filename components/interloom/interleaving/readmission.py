"""Judge what is in quarantine again, after limits or checks were mended, without speaking anew.

Rows that hold now join those that are published; shards that held before stay byte for byte.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from interloom.config.interleaving import QualityLimits, SpanPolicy
from interloom.config.text_to_token import SynthesisConfig
from interloom.core.artifacts import ArtifactRef, Manifest, Shard
from interloom.core.errors import DataError
from interloom.interleaving.building import target_of
from interloom.interleaving.judging import ShardJudge, parted
from interloom.interleaving.making import Held, Made, Tally
from interloom.interleaving.writing import (
    QUARANTINE,
    REASONS,
    REPORT,
    TABLE,
    write_json,
    write_rows,
)
from interloom.ports.gate import CheckResult, QualityGate
from interloom.ports.store import ArtifactDraft, ArtifactStore
from interloom.quality.interleaved import AlignmentCheck
from interloom.quality.shards import whole_sums
from interloom.text.bpe import load_text_tokenizer
from interloom.vocabulary.layout import VocabularyLayout


@dataclass(slots=True)
class Readmitted:
    """What came of a second judgement.

    Attributes:
        rows: Published now.
        readmitted: Of them, those that were in quarantine.
        left_out: Rows that stay there.
        licences: Of all rows, those in quarantine too: the artifact holds them.
        checks: Verdicts; set at the end.
    """

    rows: int = 0
    readmitted: int = 0
    left_out: int = 0
    licences: set[str] = field(default_factory=set)
    checks: tuple[CheckResult, ...] = ()


def judge_of(
    store: ArtifactStore, manifest: Manifest, limits: QualityLimits, gate: QualityGate
) -> ShardJudge:
    """The judge of rows that were made as an artifact's manifest says."""
    facts = manifest.facts
    layout = VocabularyLayout.from_dict(facts["layout"])
    text_tokenizer = next(
        parent for parent in manifest.parents if parent.id == layout.text_tokenizer
    )
    policy: Any = TypeAdapter(SpanPolicy).validate_python(facts["policy"])
    check = AlignmentCheck(
        load_text_tokenizer(store, text_tokenizer),
        layout,
        SynthesisConfig.model_validate(facts["synthesis"]),
        target_of(policy),
        {
            "made_by": facts["made_by"],
            "policy": f"{policy.kind}-{policy.version}",
            "seed": facts["seed"],
            "tokenizer": facts["tokenizer"],
        },
    )
    return ShardJudge(gate, check, limits)


def readmit_rows(
    store: ArtifactStore, ref: ArtifactRef, judge: ShardJudge, draft: ArtifactDraft
) -> Readmitted:
    """Write an artifact of the same shards, with what can be published of those in quarantine.

    Raises:
        DataError: Nothing is in quarantine.
    """
    manifest = store.manifest(ref)
    if not manifest.shards_under(f"{QUARANTINE}/"):
        raise DataError(f"nothing of {ref} is in quarantine: there is nothing to readmit")
    report = json.loads(store.local_path(manifest.shard(REPORT)).read_bytes())
    done = Readmitted()
    reasons: dict[str, dict[str, Any]] = {"rows": {}, "shards": {}}
    shards = [
        _again(_Kept(store, manifest, one["name"]), one, judge, draft, done, reasons)
        for one in report["shards"]
    ]
    sums = whole_sums(
        [one["sums"] for one in shards],
        num_rows=done.rows,
        left_out=done.left_out,
        twice=int(report["whole"]["twice"]),
    )
    done.checks = judge.results(sums)
    write_json(draft, REASONS, reasons)
    write_json(draft, REPORT, {"shards": shards, "whole": sums})
    return done


@dataclass(frozen=True, slots=True)
class _Kept:
    """The files of one shard."""

    store: ArtifactStore
    manifest: Manifest
    name: str

    def shards(self, table: str) -> Iterator[Shard]:
        """Those of a table: the first one, and rows that were readmitted before."""
        stem = f"{table}/train-{self.name}"
        for shard in self.manifest.shards_under(stem):
            if shard.path.removeprefix(stem)[0] in ".-":
                yield shard

    def quarantined(self) -> pa.Table | None:
        """The rows in quarantine."""
        for shard in self.shards(QUARANTINE):
            with pq.ParquetFile(self.store.local_path(shard)) as file:
                return file.read()
        return None


def _again(
    kept: _Kept,
    before: Mapping[str, Any],
    judge: ShardJudge,
    draft: ArtifactDraft,
    done: Readmitted,
    reasons: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Judge one shard's quarantine, write the shard, and give its part of the report."""
    num_before = _copy(kept, draft, done)  # shards of it, so that the next has a name of its own
    table = kept.quarantined()
    judge.sums[kept.name] = dict(before["sums"])
    if table is None:
        return dict(before)
    lengths = (tuple(before["lengths_seen"]), tuple(before["lengths_expected"]))
    if before["verdict"] == "quarantined":
        judged = judge.judge(kept.name, Made(table, Tally(), dict(before["sums"]), lengths))
        passed, left, broken = judged.kept, judged.left_out, judged.broken
        verdict, failed = judged.verdict, list(judged.failed)
    else:
        broken = judge.broken_rows(table)
        passed, left = parted(table, broken)
        verdict, failed = before["verdict"], []
    held = Held.of(passed)
    suffix = f"-{num_before:02d}" if num_before else ""
    if passed.num_rows:
        write_rows(draft, TABLE, f"{kept.name}{suffix}", passed, held)
    if left.num_rows:
        write_rows(draft, QUARANTINE, kept.name, left, Held())
    done.rows += passed.num_rows
    done.readmitted += passed.num_rows
    done.left_out += left.num_rows
    done.licences |= set(table["licence"].unique().to_pylist())
    reasons["rows"] |= {row: list(checks) for row, checks in broken.items()}
    if failed:
        reasons["shards"][kept.name] = failed
    return {
        **before,
        "broken_rows": len(broken),
        "failed": failed,
        "rows": before["rows"] + passed.num_rows,
        "speech_tokens": before["speech_tokens"] + held.speech_tokens,
        "sums": dict(sorted(judge.sums[kept.name].items())),
        "text_tokens": before["text_tokens"] + held.text_tokens,
        "verdict": verdict,
    }


def _copy(kept: _Kept, draft: ArtifactDraft, done: Readmitted) -> int:
    """Take over the published rows of a shard as they are; returns how many files there are."""
    number = 0
    for shard in kept.shards(TABLE):
        path = kept.store.local_path(shard)
        with draft.shard(shard.path) as copy:
            shutil.copyfile(path, copy.path)
            copy.count(**shard.counts)
        with pq.ParquetFile(path) as file:
            done.licences |= set(file.read(columns=["licence"])["licence"].unique().to_pylist())
        done.rows += shard.counts["rows"]
        number += 1
    return number
