"""``interloom verify-resume`` says what is so, and notices what is not."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interloom.ports.catalog import Metric
from interloom.ports.engine import EngineState, Piece
from interloom.training.checkpoint import (
    Position,
    Progress,
    SavedCheckpoint,
    open_checkpoint,
    seal,
    write_rank,
)
from interloom.training.state import whole_state
from interloom_flows.resume_runs import Ended, Ending, Kill, used_rows
from interloom_flows.resume_trials import _is_even, _noticed_check, _same_checks

COMMAND = [sys.executable, "-c", "from interloom_flows.cli import main; main()", "verify-resume"]
KILLS = [Kill(1, 2, "loss")]


def _ended(folder: Path, values: list[float], *, loss: float = 1.0, rows: int = 3) -> Ended:
    pieces = [Piece("w", "value", 0, torch.tensor(values))]
    pieces += [Piece("w", kind, 0, torch.zeros(2)) for kind in ("exp_avg", "exp_avg_sq")]
    write_rank(folder, 4, 0, EngineState({"w": (2,)}, {"w": 4.0}, tuple(pieces), {}), {})
    seal(folder, Position(4, 16, 4, 0, 0.1), Progress((Metric("train/loss", loss, 1),)), 1)
    final: SavedCheckpoint = open_checkpoint(folder / "step-00000004")
    used = tuple((index, 7 * index) for index in range(rows))
    return Ended(final, used, (Ending(did_die=True),), whole_state(final))


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, set()),
        ({"values": [1.0, 2.0000002]}, {"parameters"}),
        ({"values": [1.0, float("nan")]}, {"parameters"}),
        ({"loss": 1.0000001}, {"curves"}),
        ({"rows": 2}, {"rows"}),
    ],
)
def test_each_difference_fails_its_own_check(
    changes: dict[str, object], failed: set[str], tmp_path: Path
) -> None:
    whole = _ended(tmp_path / "a", [1.0, 2.0])
    killed = _ended(tmp_path / "b", **({"values": [1.0, 2.0]} | changes))  # type: ignore[arg-type]

    checks = list(_same_checks("killed", KILLS, whole, killed))

    assert {check.name.removeprefix("killed: ") for check in checks if not check.is_good} == failed


@pytest.mark.parametrize(
    ("words", "is_good"),
    [
        (("lost: rank 1 (process 7), last at step 1: the process is gone",), True),
        (("lost: rank 0 (process 6), last at step 1: the process is gone",), False),
        ((), False),
    ],
)
def test_who_does_not_name_the_dead_has_not_noticed(
    words: tuple[str, ...], *, is_good: bool, tmp_path: Path
) -> None:
    ended = replace(_ended(tmp_path, [1.0, 2.0]), starts=(Ending(did_die=True, words=words),))

    assert _noticed_check("killed", [Kill(1, 1, "loss")], 2, ended).is_good is is_good


def test_a_row_that_comes_again_too_early_is_noticed() -> None:
    assert _is_even([(0, 5, 6), (1, 7, 8), (2, 5, 7)])
    assert not _is_even([(0, 5, 6), (1, 5, 8), (2, 5, 7)])


def test_what_was_used_after_the_last_checkpoint_does_not_count(tmp_path: Path) -> None:
    def write(number: int, indices: range) -> None:
        lines = [f'{{"index": {index}, "rows": [{10 * index}]}}\n' for index in indices]
        (tmp_path / f"rows-{number}-0.jsonl").write_text("".join(lines))

    write(0, range(7))
    write(1, range(4, 9))

    assert used_rows(tmp_path, 2) == tuple((index, 10 * index) for index in range(9))

    write(1, range(8, 9))
    with pytest.raises(RuntimeError, match="counts twice, or was left out"):
        used_rows(tmp_path, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kills", "30", "--steps", "40"], "less than or equal to 20"),
        (["--kills", "12", "--steps", "12"], "more steps than kills are needed"),
        (["--ranks", "3"], "1, 2 or 4 ranks can share the micro-batches"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], message: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)

    assert done.returncode == 64
    assert message in done.stderr


@pytest.mark.slow
def test_a_run_killed_five_times_goes_on_bit_for_bit_kill() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 died of it" in done.stdout
    assert "FAILED" not in done.stdout
    assert "Resume is exact" in done.stdout


@pytest.mark.nightly
@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_two_ranks_killed_five_times_go_on_bit_for_bit_kill(stage: str) -> None:
    arguments = ["--ranks", "2", "--zero-stage", stage, "--steps", "40", "--seed", stage]

    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
