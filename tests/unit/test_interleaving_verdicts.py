import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from interloom.core.errors import DataError
from interloom.corpora.interleaved import rebuild
from interloom.corpora.tables import (
    INTERLEAVED,
    read_table,
)
from interloom.interleaving.making import read_made, write_made
from interloom.interleaving.writing import Written
from interloom.quality import interleaved as alignment
from interloom.stages.readmit import ReadmitRequest, readmit
from interloom.testing import toy_speech
from interloom.testing.gate import PlainGate
from interloom.testing.toy_interleaving import (
    DOCUMENT_ROWS,
    QUALITY,
    TOKENIZER,
    Outcome,
    failed,
    limited,
    run,
)

BROKEN = "words and bytes of a span are the same place"


def test_spans_that_cannot_be_spoken_stay_text_and_are_counted(tmp_path: Path) -> None:
    outcome = run(toy_speech.ToySpeaker(unspeakable="decade"), tmp_path, limited(max_refused=1.0))

    refused = [span for row in outcome.rows for span in row["spans"] if span["outcome"] == "no end"]
    tally = outcome.written.tally
    assert refused
    assert tally.outcomes["no end"] >= len(refused)
    assert tally.left_out["nothing spoken"] + tally.left_out["too short"] + len(outcome.rows) == 48
    assert all(rebuild(row, TOKENIZER) == row["text"] for row in outcome.rows)


def test_what_evaluation_asks_for_is_left_out_and_counted(tmp_path: Path) -> None:
    asked = " ".join(DOCUMENT_ROWS[29]["text"].upper().split()[3:20])

    outcome = run(toy_speech.ToySpeaker(), tmp_path, evaluation=[f"{asked}!"])

    assert DOCUMENT_ROWS[29]["id"] not in [row["id"] for row in outcome.rows]
    assert outcome.written.tally.left_out["contaminated"] == 1


def damage(folder: Path, shard: int, count: int) -> None:
    """Miscount the words of some rows in a finished shard, as a bug in weaving would."""
    path = folder / "shards" / f"{shard:05d}"
    made = read_made(path)
    rows = made.table.to_pylist()
    for row in rows[:count]:
        row["num_words"] += 1
    table = pa.Table.from_pylist(rows, schema=INTERLEAVED)
    write_made(dataclasses.replace(made, table=table), path)


def test_a_broken_row_is_left_out_and_named(tmp_path: Path) -> None:
    whole = run(toy_speech.ToySpeaker(), tmp_path)
    damage(tmp_path, shard=1, count=1)

    outcome = run(toy_speech.ToySpeaker(), tmp_path, limited(max_quarantined=0.1))

    [row] = outcome.quarantine
    assert outcome.json("quarantine.json") == {
        "rows": {row["id"]: [BROKEN]},
        "shards": {},
    }
    assert outcome.rows == [one for one in whole.rows if one["id"] != row["id"]]
    assert failed(outcome) == []
    assert failed(outcome, "warn") == [BROKEN]


def test_a_shard_of_broken_rows_goes_into_quarantine(tmp_path: Path) -> None:
    whole = run(toy_speech.ToySpeaker(), tmp_path)
    damage(tmp_path, shard=1, count=3)

    outcome = run(toy_speech.ToySpeaker(), tmp_path, limited(max_quarantined=0.5))

    verdicts = [one["verdict"] for one in outcome.json("report.json")["shards"]]
    assert verdicts == ["published", "quarantined", "published"]
    assert outcome.json("quarantine.json")["shards"] == {"00001": ["few rows are broken"]}
    assert len(outcome.rows) + len(outcome.quarantine) == len(whole.rows)
    assert failed(outcome) == []
    assert "few rows are broken" in failed(outcome, "warn")


def test_too_much_in_quarantine_fails_the_whole(tmp_path: Path) -> None:
    run(toy_speech.ToySpeaker(), tmp_path)
    damage(tmp_path, shard=0, count=3)

    assert failed(run(toy_speech.ToySpeaker(), tmp_path)) == ["little is left out"]


def readmitted(outcome: Outcome, **limits: Any) -> Outcome:
    """Judge the quarantine again, by other limits."""
    store = outcome.store
    request = ReadmitRequest(
        interleaved=outcome.ref, limits=QUALITY.model_copy(update={"max_quarantined": 1} | limits)
    )
    result = readmit(request, store=store, gate=PlainGate())
    rows, left = (
        list(read_table(store, result.interleaved, name)) for name in ("interleaved", "quarantine")
    )
    written = Written(checks=result.checks, left_out=len(left))
    assert result.metric("readmit/rows") == len(rows)
    return Outcome(written, rows, left, result.interleaved, store)


def test_a_shard_in_quarantine_is_readmitted_once_its_limits_let_it(tmp_path: Path) -> None:
    speaker = toy_speech.ToySpeaker(unspeakable="decade")
    generous = run(speaker, tmp_path / "a", limited(max_refused=1.0))
    strict = run(speaker, tmp_path / "b", limited(max_refused=0.3, max_quarantined=1.0))
    assert strict.quarantine

    again = readmitted(strict, max_refused=0.3)
    outcome = readmitted(strict, max_refused=1.0)

    assert (again.rows, again.quarantine) == (strict.rows, strict.quarantine)
    assert outcome.rows == generous.rows
    assert (
        list(read_table(outcome.store, outcome.ref, "interleaved", split="train")) == outcome.rows
    )
    assert not outcome.quarantine
    assert failed(outcome) == []
    assert {one["verdict"] for one in outcome.json("report.json")["shards"]} == {"published"}
    assert outcome.json("quarantine.json") == {"rows": {}, "shards": {}}


def test_rows_in_quarantine_bring_their_licences_with_them(tmp_path: Path) -> None:
    speaker = toy_speech.ToySpeaker(unspeakable="decade")

    documents = [row | {"licence": f"L-{at}"} for at, row in enumerate(DOCUMENT_ROWS)]

    limits = limited(max_refused=0.0, max_quarantined=1.0)
    strict = run(speaker, tmp_path, limits, documents)

    held = {row["licence"] for row in [*strict.rows, *strict.quarantine]}
    assert strict.quarantine
    assert set(strict.store.manifest(strict.ref).licences) == held
    left = readmitted(strict, max_refused=0.0)
    assert set(left.store.manifest(left.ref).licences) == held


def test_rows_that_were_left_out_singly_come_back_when_the_check_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(toy_speech.ToySpeaker(), tmp_path / "a")
    with monkeypatch.context() as patched:
        patched.setattr(alignment, "_ALIKE_CODES", 1)
        patched.setattr(alignment, "_ALIKE_WORDS", 1)
        patched.setattr(alignment, "normalise", lambda text: f"{id(text)} {text}")
        wrong = run(
            toy_speech.ToySpeaker(), tmp_path / "b", limited(max_broken=1.0, max_quarantined=1.0)
        )
    assert wrong.quarantine

    outcome = readmitted(wrong)

    assert sorted(row["id"] for row in outcome.rows) == sorted(row["id"] for row in whole.rows)
    assert not outcome.quarantine
    with pytest.raises(DataError, match="is in quarantine: there is nothing to readmit"):
        readmitted(outcome)


def test_a_document_that_is_there_twice_fails_the_whole(tmp_path: Path) -> None:
    outcome = run(toy_speech.ToySpeaker(), tmp_path, documents=[*DOCUMENT_ROWS, DOCUMENT_ROWS[9]])

    assert failed(outcome) == ["no document is there twice"]
