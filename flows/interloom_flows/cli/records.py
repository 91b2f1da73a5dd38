"""``runs``: what the catalog knows of runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom_flows.cli import screen
from interloom_flows.cli.comparing import numbers_of, with_bounds
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from interloom.bootstrap import Services
    from interloom.ports.catalog import RunRecord
    from interloom_flows.results import RunSummary


def runs(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Show this run's stages and results."),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many runs to list.", min=1)] = 20,
) -> None:
    """List the runs of pipelines, newest first; or show the stages of one."""
    from interloom.stages.leasing import end_dead_runs
    from interloom_flows.results import find_run, summarise

    with opened() as services:
        end_dead_runs(services.catalog)
        if run is not None:
            summary = summarise(services.catalog, find_run(services.catalog, run))
            _show_run(summary, services.settings.log_folder, services.contract.prices.currency)
            _show_failed_checks(services, summary)
            return
        records = services.catalog.runs(limit=limit)
    if not records:
        screen.out().print("No run yet. Start one with: interloom run starter")
        return
    shown = screen.table("", "run", "recipe", "pipeline", "state", "started", ">took")
    for record in records:
        shown.add_row(
            record.run_id[:13],
            record.recipe,
            record.job,
            str(record.state),
            record.started_at[:16].replace("T", " "),
            screen.duration(_elapsed_s(record)),
        )
    screen.out().print(shown)


def _show_failed_checks(services: "Services", summary: "RunSummary") -> None:
    """The verdicts that kept a stage from publishing, or that only warn."""
    for stage in summary.stages:
        for check in services.catalog.run_checks(stage.run_id):
            if not check.success:
                rows = f"; rows: {', '.join(check.failed_rows[:5])}" if check.failed_rows else ""
                line = f"check of {stage.job}: {check.suite}: {check.expectation}: does not hold"
                screen.put(f"{line}, {check.observed}{rows}")


def _show_run(summary: "RunSummary", log_folder: Path, currency: str) -> None:
    """The stages of a run, their errors and logs, then its numbers."""
    run = summary.run
    title = f"Run {run.run_id} of {run.recipe}: {run.state}"
    shown = screen.table(title, "stage", "state", ">took", ">memory", ">GPU-hours", ">cost")
    for stage in summary.stages:
        state = "reused" if stage.is_cache_hit else str(stage.state)
        memory = screen.size(stage.usage.peak_rss_bytes) if stage.usage.peak_rss_bytes else ""
        took = screen.duration(stage.usage.wall_s) if stage.usage.wall_s else ""
        gpu_hours = f"{stage.usage.gpu_hours:.2f}" if stage.usage.num_gpus else ""
        cost = f"{stage.usage.price:.2f} {currency}" if stage.usage.price else ""
        shown.add_row(stage.job, state, took, memory, gpu_hours, cost)
    screen.out().print(shown)
    _show_speech_costs(summary, currency)
    for failed in (*summary.stages, run):
        if failed.error:
            screen.put(f"{failed.job}: {failed.error}")
    for stage in summary.stages:
        if (log := log_folder / f"{stage.run_id}.txt").is_file():
            screen.put(f"log of {stage.job}: {log}")
    numbers = screen.table("", "result", ">value")
    for name, number in numbers_of(summary).items():
        numbers.add_row(name, with_bounds(number))
    if numbers.rows:
        screen.out().print(numbers)


def _show_speech_costs(summary: "RunSummary", currency: str) -> None:
    """What each stage that synthesises paid for a speech token that was kept."""
    from interloom_flows.results import speech_costs

    for job, cpu_ms, price in speech_costs(summary):
        line = f"{job}: {cpu_ms:.3g} ms of processor a speech token that was kept"
        line += f", {price:.2f} {currency} a million" if price else ""
        screen.out().print(line, markup=False)


def _elapsed_s(record: "RunRecord") -> float | None:
    from datetime import datetime

    if record.ended_at is None:
        return None
    began, ended = (datetime.fromisoformat(at) for at in (record.started_at, record.ended_at))
    return (ended - began).total_seconds()
