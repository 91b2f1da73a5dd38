import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from interloom.core.errors import CrashError, DataError, TransientError
from interloom.interleaving import speaking
from interloom.testing import toy_speech
from interloom.testing.toy_interleaving import (
    DOCUMENT_ROWS,
    changed,
    failed,
    run,
)
from interloom.text_to_token.spans import SpanRequest, SpanResult


def test_only_documents_that_may_be_spoken_and_are_long_enough_are_woven(tmp_path: Path) -> None:
    outcome = run(toy_speech.ToySpeaker(), tmp_path)

    expected = [
        row["id"]
        for row in DOCUMENT_ROWS
        if row["may_interleave"] and len(row["text"].split()) >= 4
    ]
    assert [row["id"] for row in outcome.rows] == expected
    assert outcome.written.licences == {"CC0-1.0"}
    assert outcome.written.tally.documents == 48
    assert outcome.written.tally.left_out == {"too short": 48 - len(expected)}
    assert failed(outcome) == failed(outcome, "warn") == []


@pytest.mark.parametrize("kept", [0, 1])
def test_a_killed_run_goes_on_inside_its_shard(tmp_path: Path, kept: int) -> None:
    whole = run(toy_speech.ToySpeaker(), tmp_path / "a")
    first, second = toy_speech.ToySpeaker(), toy_speech.ToySpeaker()
    run(first, tmp_path / "b")
    for path in sorted((tmp_path / "b/shards").glob("*.json"))[kept:]:
        path.unlink()  # as if killed before the unit was whole

    resumed = run(second, tmp_path / "b")

    assert resumed.ref == whole.ref
    assert set(second.asked) < set(first.asked) or not kept


def test_spans_that_were_spoken_before_a_kill_are_not_spoken_again(tmp_path: Path) -> None:
    whole = run(toy_speech.ToySpeaker(), tmp_path / "a")
    dying = toy_speech.ToySpeaker(dies_after=30)
    with patch_parts(7), pytest.raises(KeyboardInterrupt):
        run(dying, tmp_path / "b")
    second = toy_speech.ToySpeaker()

    with patch_parts(7):
        resumed = run(second, tmp_path / "b")

    assert resumed.ref == whole.ref
    assert dying.asked[:28]
    assert not set(dying.asked[:28]) & set(second.asked)


@contextmanager
def patch_parts(size: int) -> Iterator[None]:
    before = speaking._SPANS_PER_PART
    speaking._SPANS_PER_PART = size
    try:
        yield
    finally:
        speaking._SPANS_PER_PART = before


def test_the_shards_do_not_change_the_rows(tmp_path: Path) -> None:
    few = run(toy_speech.ToySpeaker(), tmp_path / "a")

    by_number = run(toy_speech.ToySpeaker(), tmp_path / "b", changed(documents_per_shard=3))
    by_size = run(toy_speech.ToySpeaker(), tmp_path / "c", changed(shard_bytes=300))

    assert few.rows == by_number.rows == by_size.rows
    assert few.written.tally == by_number.written.tally == by_size.written.tally


@pytest.mark.parametrize("num_workers", [2, 16])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, num_workers: int) -> None:
    config = changed(documents_per_shard=3)
    alone = run(toy_speech.ToySpeaker(), tmp_path / "a", config)

    together = run(toy_speech.ToySpeaker(), tmp_path / "b", config, num_workers=num_workers)

    assert together.ref == alone.ref


def test_an_error_in_a_worker_is_raised_as_it_is(tmp_path: Path) -> None:
    long = toy_speech.document_row(1, num_words=30) | {"text": "\u4f60 " * 30}

    with pytest.raises(CrashError, match="KeyError"):
        run(toy_speech.ToySpeaker(), tmp_path, documents=[long], num_workers=2)


def test_workers_that_are_killed_are_replaced(tmp_path: Path) -> None:
    config = changed(documents_per_shard=3)
    alone = run(toy_speech.ToySpeaker(), tmp_path / "a", config)
    killed = toy_speech.ToySpeaker(kills_itself_at=tmp_path / "killed", kills=4)

    together = run(killed, tmp_path / "b", config, num_workers=2)

    assert together.ref == alone.ref
    assert len(list((tmp_path / "killed").glob("*"))) == 4


def test_a_shard_that_kills_every_worker_ends_the_stage(tmp_path: Path) -> None:
    killed = toy_speech.ToySpeaker(kills_itself_at=tmp_path / "killed", kills=10**6)

    with pytest.raises(TransientError, match=r"shard 0000\d ended 5 workers, .* exit code -9"):
        run(killed, tmp_path / "b", num_workers=2)


COMPUTE_BEFORE_AND_IN_WORKERS = """
import torch
from interloom.corpora.fan_out import make_units
from interloom.corpora.units import Unit

def compute(_=None):
    torch.exp(torch.randn(2_000_000)).sum()

torch.set_num_threads(2)
compute()
units = (Unit(index, ()) for index in range(4))
made = make_units(units, lambda: compute, is_made=lambda _: False, num_workers=2)
print([unit.index for unit in made])
"""


@pytest.mark.slow
def test_workers_compute_after_their_parent_has_done_so_in_several_threads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPUTE_BEFORE_AND_IN_WORKERS],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    assert done.stdout == "[0, 1, 2, 3]\n"


class SlowSpeaker(toy_speech.ToySpeaker):
    """Takes its time, and leaves its process's id in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def synthesise(self, spans: Sequence[SpanRequest]) -> list[SpanResult]:
        (self._folder / str(os.getpid())).touch()
        time.sleep(0.1)
        return super().synthesise(spans)


@pytest.mark.slow
def test_a_stage_killed_at_random_goes_on_to_the_same_bytes_and_leaves_no_orphan(
    tmp_path: Path,
) -> None:
    config, folder, rng = changed(documents_per_shard=3), tmp_path / "b", np.random.default_rng(5)
    whole = run(toy_speech.ToySpeaker(), tmp_path / "a", config)
    pids = tmp_path / "pids"
    pids.mkdir()

    made = []
    for _ in range(5):
        process = multiprocessing.get_context("fork").Process(
            target=run, args=(SlowSpeaker(pids), folder, config), kwargs={"num_workers": 2}
        )
        process.start()
        time.sleep(0.2 + float(rng.random()) * 0.4)
        process.kill()
        process.join()
        made.append(len(list((folder / "shards").glob("*.json"))))
    deadline_s = time.monotonic() + 20
    while alive := [pid for pid in pids.iterdir() if Path(f"/proc/{pid.name}").is_dir()]:
        assert time.monotonic() < deadline_s, f"orphans: {alive}"
        time.sleep(0.1)

    assert run(toy_speech.ToySpeaker(), folder, config).ref == whole.ref
    assert made == sorted(made)
    assert list(pids.iterdir())


def test_nothing_that_can_be_spoken_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no document could be interleaved: of 0 taken, none"):
        run(toy_speech.ToySpeaker(), tmp_path, documents=DOCUMENT_ROWS[::5])
    with pytest.raises(DataError, match="of 1 taken, 1 no words"):
        run(toy_speech.ToySpeaker(), tmp_path / "b", documents=[DOCUMENT_ROWS[1] | {"text": " \n"}])


def test_a_share_of_the_documents_is_taken_by_their_ids(tmp_path: Path) -> None:
    whole = run(toy_speech.ToySpeaker(), tmp_path / "a")

    half = run(toy_speech.ToySpeaker(), tmp_path / "b", changed(document_share=0.5))
    few = run(toy_speech.ToySpeaker(), tmp_path / "c", changed(max_documents=7))

    assert 10 < len(half.rows) < 35
    assert [row for row in whole.rows if row in half.rows] == half.rows
    assert few.written.tally.documents == 7
    assert few.rows == whole.rows[: len(few.rows)]
