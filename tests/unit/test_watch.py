"""Which rank is named when training stands still."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from interloom.core.errors import TransientError
from interloom.training.watch import Watch, read_standing, watching


def _ranks(folder: Path, *places: tuple[int, int]) -> list[Watch]:
    watches = [Watch(folder, rank, len(places)) for rank in range(len(places))]
    for watch, (step, micro) in zip(watches, places, strict=True):
        watch.at(step, micro, "loss")
    return watches


def test_the_rank_that_is_behind_is_named(tmp_path: Path) -> None:
    watches = _ranks(tmp_path, (7, 3), (7, 1), (7, 3))

    said = watches[0].diagnose(60.0)

    assert said.startswith(f"rank 1 (process {os.getpid()}), last at step 7, micro-batch 1, in")
    assert said.endswith("it hangs, and the others wait for it")


def test_a_rank_whose_process_froze_is_named_though_it_is_not_behind(tmp_path: Path) -> None:
    watches = _ranks(tmp_path, (7, 3), (7, 3))
    os.utime(tmp_path / "rank-1.json", (1_000, 1_000))

    assert watches[0].diagnose(60.0).startswith("rank 1 ")
    assert "frozen" in watches[0].diagnose(60.0)


def test_a_rank_whose_process_is_gone_is_named(tmp_path: Path) -> None:
    watches = _ranks(tmp_path, (7, 3), (9, 0))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    seen = read_standing(tmp_path, 1)
    assert seen is not None
    left = replace(seen, process=gone.pid)
    (tmp_path / "rank-1.json").write_text(left.to_json())

    assert watches[0].diagnose(60.0).endswith("the process is gone")
    assert watches[0].diagnose(60.0).startswith(f"rank 1 (process {gone.pid})")


def test_standing_still_for_too_long_is_given_up(tmp_path: Path) -> None:
    (watch,) = _ranks(tmp_path, (4, 0))
    said: list[TransientError] = []
    is_said = threading.Event()

    def give_up(error: TransientError) -> None:
        said.append(error)
        is_said.set()

    with watching(watch, 0.2, give_up):
        assert is_said.wait(20)

    assert str(said[0]).startswith("no progress for 0.2 s: rank 0 ")
