"""``verify-resume``: what only a run in progress can show."""

from typing import Annotated

import typer
from pydantic import ValidationError

from interloom.core.errors import ConfigError, CrashError
from interloom_flows.cli import screen


def verify_resume(
    kills: Annotated[int, typer.Option(help="How often a run is killed with SIGKILL.")] = 5,
    steps: Annotated[int, typer.Option(help="Optimizer steps of each run.")] = 24,
    ranks: Annotated[int, typer.Option(help="Ranks of the run that is compared bit for bit.")] = 1,
    zero_stage: Annotated[int, typer.Option(help="ZeRO stage of that run, 0 to 3.")] = 0,
    seed: Annotated[int, typer.Option(help="Of weights, rows and moments of the kills.")] = 0,
) -> None:
    """Train a tiny model, kill it, go on, compare: prove exact resume on this machine.

    On as many ranks, parameters and optimizer must be bitwise equal to an undisturbed run; on 1, 2
    and 1 ranks in turn, the same rows must be used exactly once. Needs no argument, about 20 s.
    """
    from interloom_flows.resuming import TrialOptions, try_resuming

    try:
        options = TrialOptions(
            num_kills=kills, num_steps=steps, num_ranks=ranks, zero_stage=zero_stage, seed=seed
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"verify-resume: {first['msg']}, got {first['input']!r}") from error
    shown = screen.table("", "", "what", "rule", "found")
    failed = []
    with screen.err().status("Training, killing, going on") as status:
        for check in try_resuming(options):
            status.update(check.name)
            shown.add_row("ok" if check.is_good else "FAILED", check.name, check.how, check.found)
            if not check.is_good:
                failed.append(check.name)
    screen.out().print(shown)
    if failed:
        raise CrashError(f"resume is not exact: {'; '.join(failed)}")
    screen.out().print("Resume is exact: a killed run goes on as if it had never been stopped.")
