"""``runs`` and ``diff``: what the catalog knows of runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interloom.bootstrap import Services
    from interloom.evaluation.choice import ItemScores
    from interloom.evaluation.numbers import Number
    from interloom.ports.catalog import RunRecord
    from interloom_flows.results import RunSummary

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="An id or its beginning, a recipe's name for its newest, or last."
    ),
]


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


def diff(first: RunArgument, second: RunArgument = "last") -> None:
    """Compare two runs: what was changed, what came of it, and what it took.

    Results on the same items are compared item by item: how many score higher and lower in the
    second run, and how likely so uneven a split is by luck (p, exact sign test).
    """
    from interloom_flows.planning import request_changes
    from interloom_flows.results import find_run, item_scores, summarise

    with opened() as services:
        summaries = [
            summarise(services.catalog, find_run(services.catalog, name))
            for name in (first, second)
        ]
        scores = [item_scores(services.store, summary) for summary in summaries]
        currency = services.contract.prices.currency
    was, now = (json.loads(summary.run.request_json) for summary in summaries)
    changed = list(request_changes(was, now, None))
    for line in changed or ["The recipes are the same."]:
        screen.out().print(line, markup=False, soft_wrap=True)
    before, after = (_numbers(summary) for summary in summaries)
    _show_changes((before, after), scores)
    for name, summary in zip(("first", "second"), summaries, strict=True):
        screen.out().print(f"the {name} run took {_spent(summary, currency)}", markup=False)


def _show_changes(
    numbers: "tuple[Mapping[str, Number], Mapping[str, Number]]",
    scores: "Sequence[Mapping[str, ItemScores]]",
) -> None:
    """The results that differ, those on the same items with the items that differ."""
    from interloom.evaluation.pairing import paired

    (before, after), (first, second) = numbers, scores
    columns = ("result", ">first", ">second", ">change", ">items higher, lower", ">p")
    shown = screen.table("", *columns)
    for name in {**before, **after}:
        a, b = before.get(name), after.get(name)
        if a == b:
            continue
        change = "" if a is None or b is None else f"{(b.value or 0.0) - (a.value or 0.0):+.4g}"
        both = paired(first[name], second[name]) if name in first and name in second else None
        split = f"{both.num_higher}, {both.num_lower} of {both.num_items}" if both else ""
        chance = f"{both.p_value:.2g}" if both else ""
        shown.add_row(name, _with_bounds(a), _with_bounds(b), change, split, chance)
    screen.out().print(shown if shown.rows else "All results are the same.")


def _spent(summary: "RunSummary", currency: str) -> str:
    """What the stages that this run executed took."""
    spent = [stage.usage for stage in summary.stages if not stage.is_cache_hit]
    reused = len(summary.stages) - len(spent)
    price = sum(usage.price for usage in spent)
    return (
        f"{screen.duration(sum(usage.wall_s for usage in spent))} in {len(spent)} stages "
        f"({reused} reused), {sum(usage.gpu_hours for usage in spent):.2f} GPU-hours"
        + (f", {price:.2f} {currency}" if price else "")
    )


def _show_failed_checks(services: "Services", summary: "RunSummary") -> None:
    """The verdicts that kept a stage from publishing, or that only warn."""
    for stage in summary.stages:
        for check in services.catalog.run_checks(stage.run_id):
            if not check.success:
                rows = f"; rows: {', '.join(check.failed_rows[:5])}" if check.failed_rows else ""
                line = f"check of {stage.job}: {check.suite}: {check.expectation}: does not hold"
                screen.out().print(f"{line}, {check.observed}{rows}", markup=False, soft_wrap=True)


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
            screen.out().print(f"{failed.job}: {failed.error}", markup=False, soft_wrap=True)
    for stage in summary.stages:
        if (log := log_folder / f"{stage.run_id}.txt").is_file():
            screen.out().print(f"log of {stage.job}: {log}", markup=False, soft_wrap=True)
    numbers = screen.table("", "result", ">value")
    for name, number in _numbers(summary).items():
        numbers.add_row(name, _with_bounds(number))
    if numbers.rows:
        screen.out().print(numbers)


def _show_speech_costs(summary: "RunSummary", currency: str) -> None:
    """What each stage that synthesises paid for a speech token that was kept."""
    from interloom_flows.results import speech_costs

    for job, cpu_ms, price in speech_costs(summary):
        line = f"{job}: {cpu_ms:.3g} ms of processor a speech token that was kept"
        line += f", {price:.2f} {currency} a million" if price else ""
        screen.out().print(line, markup=False)


def _numbers(summary: "RunSummary") -> "dict[str, Number]":
    """The results of all stages that have a value."""
    return {
        number.name: number
        for numbers in summary.numbers.values()
        for number in numbers
        if number.value is not None
    }


def _with_bounds(number: "Number | None") -> str:
    """Its value, and its interval where it has one."""
    if number is None:
        return ""
    has_bounds = number.low is not None and number.high is not None
    bounds = f" ({number.low:.3g} .. {number.high:.3g})" if has_bounds else ""
    return f"{number.value:.4g}{bounds}"


def _elapsed_s(record: "RunRecord") -> float | None:
    from datetime import datetime

    if record.ended_at is None:
        return None
    began, ended = (datetime.fromisoformat(at) for at in (record.started_at, record.ended_at))
    return (ended - began).total_seconds()
