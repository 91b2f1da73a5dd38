"""``runs``, ``lineage``, ``diff`` and ``data``: what the catalog knows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from interloom.ports.catalog import RunRecord
    from interloom_flows.results import RunSummary

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="An id or its beginning, a recipe's name for its newest, or last."
    ),
]

data_app = typer.Typer(
    help="Data sets and models: list, show, export.", no_args_is_help=True, rich_markup_mode=None
)


def runs(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Show this run's stages and results."),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many runs to list.", min=1)] = 20,
) -> None:
    """List the runs of pipelines, newest first; or show the stages of one."""
    from interloom_flows.results import find_run, summarise

    with opened() as services:
        if run is not None:
            _show_run(summarise(services.catalog, find_run(services.catalog, run)))
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


def lineage(run: RunArgument = "last") -> None:
    """Show what each stage of a run read and wrote."""
    from interloom_flows.results import find_run, summarise

    with opened() as services:
        summary = summarise(services.catalog, find_run(services.catalog, run))
        edges = services.catalog.edges([stage.run_id for stage in summary.stages])
    shown = screen.table(f"Lineage of run {summary.run.run_id[:13]}", "stage", "", "name", "what")
    for stage in summary.stages:
        held = [edge for edge in edges if edge.run_id == stage.run_id]
        for edge in sorted(held, key=lambda edge: (edge.is_output, edge.name)):
            verb = "wrote" if edge.is_output else "read"
            verb = "reused" if edge.is_output and stage.is_cache_hit else verb
            shown.add_row(stage.job, verb, edge.name, str(edge.artifact))
    screen.out().print(shown)


def diff(first: RunArgument, second: RunArgument = "last") -> None:
    """Compare two runs: what was changed, and what came of it."""
    from interloom_flows.planning import request_changes
    from interloom_flows.results import find_run, summarise

    with opened() as services:
        summaries = [
            summarise(services.catalog, find_run(services.catalog, name))
            for name in (first, second)
        ]
    one, two = summaries
    was, now = (json.loads(summary.run.request_json) for summary in summaries)
    changed = list(request_changes(was, now, None))
    for line in changed or ["The recipes are the same."]:
        screen.out().print(line, markup=False, soft_wrap=True)
    before, after = _values(one), _values(two)
    shown = screen.table("", "result", ">first", ">second", ">change")
    for name in [*before, *(name for name in after if name not in before)]:
        a, b = before.get(name), after.get(name)
        if a != b:
            change = "" if a is None or b is None else f"{b - a:+.4g}"
            shown.add_row(name, _number(a), _number(b), change)
    screen.out().print(shown if shown.rows else "All results are the same.")


@data_app.command("list")
def data_list() -> None:
    """List published data sets and models, newest first."""
    with opened() as services:
        versions = services.catalog.datasets()
    if not versions:
        screen.out().print("Nothing is published yet. Start with: interloom run starter")
        return
    shown = screen.table("", "name", ">version", "kind", ">size", "id")
    for version in versions:
        shown.add_row(
            version.name,
            str(version.version),
            version.ref.kind.value,
            screen.size(version.num_bytes),
            version.ref.id[:12],
        )
    screen.out().print(shown)


NameArgument = Annotated[
    str, typer.Argument(metavar="NAME[@VERSION]", help="As interloom data list shows it.")
]


@data_app.command("show")
def data_show(name: NameArgument) -> None:
    """Show one data set or model: its shards, counts, licences, facts and checks."""
    from interloom_flows.planning import dataset_named

    with opened() as services:
        version = dataset_named(services.catalog, name)
        manifest = services.store.manifest(version.ref)
        checks = services.catalog.checks(version.ref)
    lines: Mapping[str, object] = {
        "id": version.ref.id,
        "kind": version.ref.kind.value,
        "published": version.published_at[:19].replace("T", " "),
        "size": screen.size(version.num_bytes),
        "licences": ", ".join(version.licences) or "none given",
        "made from": ", ".join(str(parent) for parent in manifest.parents) or "nothing",
        **{
            f"number of {key.replace('_', ' ')}": f"{value:,}"
            for key, value in version.counts.items()
        },
        **manifest.facts,
    }
    screen.out().print(f"{version.name}, version {version.version}", markup=False)
    for key, value in lines.items():
        screen.out().print(f"  {key}: {value}", markup=False, soft_wrap=True)
    for shard in manifest.shards:
        screen.out().print(
            f"  shard {shard.path}: {screen.size(shard.num_bytes)}", markup=False, soft_wrap=True
        )
    for check in checks:
        verdict = "holds" if check.success else "DOES NOT HOLD"
        screen.out().print(
            f"  check {check.expectation}: {verdict}, {check.observed}",
            markup=False,
            soft_wrap=True,
        )


@data_app.command("export")
def data_export(
    name: NameArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder for NAME.dvc.")],
) -> None:
    """Write a .dvc file, so that dvc pull fetches the data without Interloom."""
    from interloom.adapters.dvc_export import export_dvc, remote_options
    from interloom_flows.planning import dataset_named

    with opened() as services:
        version = dataset_named(services.catalog, name)
        path = export_dvc(
            services.store.manifest(version.ref),
            version.name.replace("/", "-"),
            to,
            remote=remote_options(services.settings.store_url, services.settings.s3),
        )
    screen.out().print(f"{path}; fetch it: cd {to} && dvc pull", markup=False, soft_wrap=True)


def _show_run(summary: "RunSummary") -> None:
    """The stages of a run, then its numbers."""
    run = summary.run
    shown = screen.table(
        f"Run {run.run_id} of {run.recipe}: {run.state}", "stage", "state", ">took", ">memory"
    )
    for stage in summary.stages:
        state = "reused" if stage.is_cache_hit else str(stage.state)
        memory = screen.size(stage.usage.peak_rss_bytes) if stage.usage.peak_rss_bytes else ""
        took = screen.duration(stage.usage.wall_s) if stage.usage.wall_s else ""
        shown.add_row(stage.job, state, took, memory)
    screen.out().print(shown)
    for failed in (*summary.stages, run):
        if failed.error:
            screen.out().print(f"{failed.job}: {failed.error}", markup=False, soft_wrap=True)
    numbers = screen.table("", "result", ">value")
    for name, value in _values(summary).items():
        numbers.add_row(name, _number(value))
    if numbers.rows:
        screen.out().print(numbers)


def _values(summary: "RunSummary") -> dict[str, float]:
    return {
        number.name: number.value
        for numbers in summary.numbers.values()
        for number in numbers
        if number.value is not None
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _elapsed_s(record: "RunRecord") -> float | None:
    from datetime import datetime

    if record.ended_at is None:
        return None
    began, ended = (datetime.fromisoformat(at) for at in (record.started_at, record.ended_at))
    return (ended - began).total_seconds()
