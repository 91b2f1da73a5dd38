"""Does a killed run go on as if nothing had happened? Real processes, real kills.

``python -m interloom_flows.resume_trials OPTIONS.json`` trains a tiny language model again and
again, kills it with SIGKILL at seeded random moments, lets it go on, and compares with runs that
nobody disturbed. It prints one JSON line a check.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from interloom.config.training import TrainConfig
from interloom_flows.resume_runs import MICROS, PATIENCE_S, Ended, Kill, run_to_end
from interloom_flows.resuming import LOSS_TOLERANCE, Check, TrialOptions

_SAVE_EVERY = 3


def main(arguments: Sequence[str]) -> None:
    """Run all trials, and print what each has shown."""
    options = TrialOptions.model_validate_json(Path(arguments[0]).read_bytes())
    with TemporaryDirectory(prefix="interloom-resume-") as folder:
        for check in _trials(options, Path(folder)):
            sys.stdout.write(check.model_dump_json() + "\n")
            sys.stdout.flush()


def _trials(options: TrialOptions, folder: Path) -> Iterator[Check]:
    config = _train_config(options)
    whole = run_to_end(folder / "whole", [config], [], options.seed)
    yield Check(
        name="undisturbed",
        how=f"{config.num_steps} steps of {MICROS} micro-batches, every row equally often",
        is_good=_is_even(whole.rows),
        found=f"{len(whole.rows)} micro-batches, final loss {whole.losses[-1]:.4f}",
    )
    kills = _kills(options)
    killed = run_to_end(folder / "killed", [config] * (len(kills) + 1), kills, options.seed)
    ranks = f"{options.num_ranks} rank{'s' if options.num_ranks > 1 else ''}"
    name = f"kill -9 x{len(kills)}, {ranks}"
    yield from _same_checks(name, kills, whole, killed)
    if options.num_ranks > 1:
        yield _noticed_check(name, kills, options.num_ranks, killed)
    yield from _other_ranks(options, folder)


def _same_checks(name: str, kills: Sequence[Kill], whole: Ended, killed: Ended) -> Iterator[Check]:
    """As many ranks: everything is equal bit for bit."""
    num_dead = sum(start.did_die for start in killed.starts)
    yield Check(
        name=name,
        how="; ".join(kill.describe() for kill in kills),
        is_good=num_dead == len(kills),
        found=f"{num_dead} of {len(kills)} died of it",
    )
    worst = _largest_difference(whole.state, killed.state)
    values = {key: value for key, value in worst.items() if "/" not in key}
    moments = {key: value for key, value in worst.items() if "/" in key}
    for what, found in (("parameters", values), ("optimizer", moments)):
        largest = max(found.values())
        yield Check(
            name=f"{name}: {what}",
            how="bitwise equal to the undisturbed run",
            is_good=largest == 0.0,
            found=f"largest difference {largest:.3g} over {len(found)} tensors",
        )
    yield _rows_check(name, whole, killed)
    curves = killed.final.manifest.progress.curves == whole.final.manifest.progress.curves
    yield Check(
        name=f"{name}: curves",
        how="every point equal",
        is_good=curves,
        found="equal" if curves else "different",
    )


def _noticed_check(name: str, kills: Sequence[Kill], num_ranks: int, killed: Ended) -> Check:
    """The ranks that were left have ended by themselves, and have said whom they lost."""
    missed = [
        start.words
        for kill, start in zip(kills, killed.starts, strict=True)
        if len(start.words) != num_ranks - 1
        or not all(f"rank {kill.rank(num_ranks)} (process" in word for word in start.words)
    ]
    return Check(
        name=f"{name}: noticed",
        how=f"the others name the rank: at once if it is gone, after {PATIENCE_S:g} s if frozen",
        is_good=not missed,
        found=f"all {len(kills)} times" if not missed else f"{len(missed)} missed: {missed[0]}",
    )


def _other_ranks(options: TrialOptions, folder: Path) -> Iterator[Check]:
    """One rank, then two, then one, at three ZeRO stages: the same rows, nearly the same losses."""
    alone = _train_config(options, num_ranks=1, zero_stage=0)
    pair = _train_config(options, num_ranks=2, zero_stage=2)
    again = _train_config(options, num_ranks=1, zero_stage=3)
    third = options.num_steps // 3
    kills = [Kill(third, 1, "loss"), Kill(2 * third, 2, "loss")]
    whole = run_to_end(folder / "alone", [alone], [], options.seed)
    moved = run_to_end(folder / "moved", [alone, pair, again], kills, options.seed)
    name = "1 -> 2 -> 1 ranks"
    yield Check(
        name=name,
        how="ZeRO 0 -> 2 -> 3; killed at " + "; ".join(kill.describe() for kill in kills),
        is_good=all(start.did_die for start in moved.starts),
        found=f"ended at step {moved.final.manifest.position.step}",
    )
    yield _rows_check(name, whole, moved)
    pairs = zip(whole.losses, moved.losses, strict=True)
    worst = max(abs(own - other) / own for own, other in pairs)
    yield Check(
        name=f"{name}: losses",
        how=f"within {LOSS_TOLERANCE:g} of the undisturbed run",
        is_good=worst <= LOSS_TOLERANCE,
        found=f"largest relative difference {worst:.2g} over {len(whole.losses)} steps",
    )
    largest = max(_largest_difference(whole.state, moved.state).values())
    yield Check(
        name=f"{name}: parameters",
        how="close to the undisturbed run",
        is_good=largest <= 1e-2,
        found=f"largest difference {largest:.2g}",
    )


def _is_even(used: Sequence[tuple[int, ...]]) -> bool:
    """Whether no row was used again before all others were."""
    counts = Counter(row for _, *rows in used for row in rows)
    return max(counts.values()) - min(counts.values()) <= 1


def _rows_check(name: str, whole: Ended, other: Ended) -> Check:
    """Each row that counts was used once, and by the same step."""
    is_same = sorted(whole.rows) == sorted(other.rows)
    return Check(
        name=f"{name}: rows",
        how="the same rows, exactly once each",
        is_good=is_same,
        found=f"{len(other.rows)} micro-batches, {'equal' if is_same else 'different'}",
    )


def _train_config(
    options: TrialOptions, *, num_ranks: int | None = None, zero_stage: int | None = None
) -> TrainConfig:
    ranks = options.num_ranks if num_ranks is None else num_ranks
    return TrainConfig.model_validate(
        {
            "num_steps": options.num_steps,
            "learning_rate": 0.01,
            "warmup_steps": 2,
            "gradient_accumulation": MICROS // ranks,
            "num_ranks": ranks,
            "threads_per_rank": 1,
            "zero_stage": options.zero_stage if zero_stage is None else zero_stage,
            "checkpoint_every_steps": _SAVE_EVERY,
            "log_every_steps": 1,
        }
    )


def _kills(options: TrialOptions) -> list[Kill]:
    """Seeded random places, in the order in which the run comes by; the last hits a checkpoint.

    Of several ranks, the first is not killed but frozen.
    """
    draw = np.random.Generator(np.random.Philox(key=options.seed))
    steps = sorted(draw.choice(np.arange(1, options.num_steps), options.num_kills, replace=False))
    kills = [Kill(int(step), int(draw.integers(MICROS)), "loss") for step in steps]
    if options.num_ranks > 1:
        kills[0] = replace(kills[0], moment="freeze")
    saved = kills[-1].step // _SAVE_EVERY * _SAVE_EVERY
    is_new = len(kills) > 1 and saved > kills[-2].step
    return [*kills[:-1], Kill(saved, 0, "checkpoint")] if is_new else kills


def _largest_difference(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> dict[str, float]:
    """By tensor; not a number counts as infinite."""
    if first.keys() != second.keys():
        raise RuntimeError("the runs saved different tensors")
    found = {}
    for name, values in first.items():
        gap = float((values - second[name]).abs().max())
        found[name] = gap if gap == gap else float("inf")  # noqa: PLR0124 - not a number
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
