"""``verify-resume``, ``sweep`` and ``curves``: how training went, and whether it can be trusted."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape

from interloom.core.errors import ConfigError, CrashError, DataError, MissingError
from interloom_flows.cli import screen
from interloom_flows.cli.comparing import RunArgument
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from interloom_flows.sweeping import ArmResult
    from interloom_flows.sweeps import Sweep


def verify_resume(
    kills: Annotated[int, typer.Option(help="How often a run is killed with SIGKILL.")] = 5,
    steps: Annotated[int, typer.Option(help="Optimizer steps of each run.")] = 24,
    ranks: Annotated[int, typer.Option(help="Ranks of the run that is compared bit for bit.")] = 1,
    zero_stage: Annotated[int, typer.Option(help="ZeRO stage of that run, 0 to 3.")] = 0,
    seed: Annotated[int, typer.Option(help="Of weights, rows and moments of the kills.")] = 0,
) -> None:
    """Train a tiny model, kill it, go on, compare: prove exact resume on this machine.

    On as many ranks, parameters and optimizer must be bitwise equal to an undisturbed run; on 1, 2
    and 1 ranks in turn, the same rows must be used exactly once. Of several ranks one is frozen
    rather than killed, and the others must say which was lost. Needs no argument, about 20 s.
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
            verdict = "ok" if check.is_good else "FAILED"
            shown.add_row(verdict, check.name, check.how, escape(check.found))
            if not check.is_good:
                failed.append(check.name)
    screen.out().print(shown)
    if failed:
        raise CrashError(f"resume is not exact: {'; '.join(failed)}")
    screen.out().print("Resume is exact: a killed run goes on as if it had never been stopped.")


def sweep(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe to vary, or a committed sweep.")
    ],
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=A,B,C", help="Values to try; several give all pairs."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one value in every arm, also what it varies."
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="STAGE", help="Stop each arm at this stage.")
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option("--show", metavar="NUMBER", help="Results to compare, or their beginning."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Arms side by side.", min=1)] = 1,
) -> None:
    """Run a recipe once for each choice of values, and compare the results.

    What arms have in common is computed once. Stopped and started again, it goes on with the arms
    that are not complete: interloom sweep starter --grid interleave.spans.speech_ratio=0.2,0.3,0.4
    Of arms that differ in a seed alone the mean is shown, too, with its interval over trainings.
    """
    from interloom_flows.seeds import over_seeds
    from interloom_flows.sweeping import SweepOptions, run_sweep, save_comparison, shown_names

    chosen = _sweep(name, grid or (), set_ or ())
    with opened() as services:
        folder = services.settings.home / "sweeps" / name.replace("/", "-").removesuffix(".toml")
        results = run_sweep(services, chosen, SweepOptions(folder, only, jobs), screen.say)
    names = shown_names(results, show or chosen.numbers)
    columns = shown_names(results, chosen.columns) if chosen.columns else ()
    shown = (*results, *over_seeds(results))
    _show_arms(shown, (*names, *columns))
    plot = save_comparison(shown, names, columns, folder)
    screen.put(f"plot: {plot}, table: {plot.with_name('table.md')}")
    failed = [result for result in results if result.error is not None]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(results)} arms failed; the first, {failed[0].label}: "
            f"{failed[0].error}; the logs are in {folder}"
        )


def curves(
    run: RunArgument = "last",
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write one event file a stage below this folder."),
    ] = None,
) -> None:
    """Show where a run's curves ended, or write them for TensorBoard."""
    from interloom.adapters.tensorboard_export import write_events
    from interloom_flows.results import find_run

    with opened() as services:
        stages = services.catalog.runs(parent_run_id=find_run(services.catalog, run).run_id)
        held = {stage: services.catalog.metrics(stage.run_id) for stage in stages}
    shown = screen.table("", "stage", "curve", ">points", ">last step", ">last value")
    for stage, points in held.items():
        last = {point.name: point for point in points if point.step is not None}
        for name, point in sorted(last.items()):
            count = sum(other.name == name for other in points)
            shown.add_row(stage.job, name, str(count), str(point.step), f"{point.value:.4g}")
    if tensorboard is None:
        screen.out().print(shown)
        return
    trained = {stage: points for stage, points in held.items() if any(p.step for p in points)}
    if not trained:
        raise MissingError("there are no curves to export: the run has trained nothing yet")
    for stage, points in trained.items():
        ended_s = datetime.fromisoformat(stage.ended_at or stage.started_at).timestamp()
        path = write_events(tensorboard / stage.job, points, wall_s=ended_s)
        screen.put(str(path))


def _sweep(name: str, grid: Sequence[str], overrides: Sequence[str]) -> "Sweep":
    """A recipe with a grid, or a committed sweep."""
    from interloom_flows.sweeping import grid_arms
    from interloom_flows.sweeps import Sweep, load_sweep

    held = Sweep(recipe=name, arms=grid_arms(grid)) if grid else load_sweep(name)
    arms = tuple((*arm, *overrides) for arm in held.arms)
    return held.model_copy(update={"arms": arms})


def _show_arms(results: "Sequence[ArmResult]", names: Sequence[str]) -> None:
    """One line a number and arm; an arm whose interval is apart from the first one's is marked."""
    from interloom_flows.sweeping import is_apart, number_of

    shown = screen.table("", "result", "arm", ">value", ">interval", "apart from the first")
    for name in names:
        first = number_of(results[0], name)
        for result in results:
            number = number_of(result, name)
            if number is None or number.value is None:
                continue
            has_interval = number.low is not None and number.high is not None
            interval = f"{number.low:.3f} .. {number.high:.3f}" if has_interval else ""
            apart = "yes" if is_apart(first, number) else ""
            shown.add_row(name, result.label, f"{number.value:.4g}", interval, apart)
    screen.out().print(shown)
