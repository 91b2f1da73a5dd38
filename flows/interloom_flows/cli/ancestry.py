"""``lineage``: what was made from what, from a row of a corpus to a model's numbers and back."""

from typing import TYPE_CHECKING, Annotated

import typer

from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from rich.table import Table

    from interloom.bootstrap import Services
    from interloom_flows.tracing import Made, MixedAt

_SHOWN = 12  # rows or steps that are written out


def lineage(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="A run (id, recipe or last), an artifact (NAME@VERSION or kind:ID), shard:SHA256, "
            "or a row: utterance:ID, document:ID, dialogue:ID.",
        ),
    ] = "last",
    step: Annotated[
        int | None,
        typer.Option(help="Of a language model: the documents that this step of training read."),
    ] = None,
) -> None:
    """Show what something was made from, what was made from it, and what that cost."""
    from interloom_flows.tracing import ROW_KINDS

    kind, _, value = what.partition(":")
    with opened() as services:
        if step is not None:
            _show_step(services, what, step)
        elif kind in ROW_KINDS and value:
            _show_row(services, kind, value)
        elif kind == "shard" and value:
            _show_shard(services, value)
        elif ":" in what or "/" in what or "@" in what:
            _show_artifact(services, what)
        else:
            _show_run(services, what)


def _show_run(services: "Services", run: str) -> None:
    """What each stage of a run read and wrote."""
    from interloom_flows.results import find_run, summarise

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


def _show_artifact(services: "Services", what: str) -> None:
    """All that an artifact was made from and all that was made from it."""
    from interloom_flows.tracing import artifact_lineage, find_artifact

    held = artifact_lineage(services.catalog, find_artifact(services.catalog, what))
    shown = screen.table(f"Lineage of {held.subject.artifact}", "", "what", "made by", "names")
    for made in held.ancestors:
        _add(shown, "from", made)
    _add(shown, "this", held.subject)
    for made in held.descendants:
        _add(shown, "into", made)
    screen.out().print(shown)
    prices = services.contract.prices
    money = f", {held.price:.2f} {prices.currency}" if held.price else ""
    screen.put(
        f"It took {held.cpu_hours:.2f} processor hours, {held.gpu_hours:.2f} GPU-hours{money}, "
        "all that it was made from included."
    )


def _show_shard(services: "Services", sha256: str) -> None:
    """The artifacts that hold a shard, and the models that were made from them."""
    from interloom.core.errors import MissingError

    holders = services.catalog.with_shard(sha256)
    if not holders:
        raise MissingError(f"no published artifact holds a shard with sha256 {sha256!r}")
    for ref in holders:
        screen.put(f"held by {ref}")
    for ref in services.catalog.descendants(holders):
        names = ", ".join(f"{held.name}@{held.version}" for held in services.catalog.names([ref]))
        screen.put(f"{'model' if ref.kind.is_model else 'into'} {ref}  {names}")


def _show_row(services: "Services", kind: str, row_id: str) -> None:
    """A row's shards, the rows of mixtures that hold it, steps, models and their numbers."""
    from interloom_flows.tracing import find_rows, trace_row

    catalog, store = services.catalog, services.store
    places = find_rows(catalog, store, row_id)
    screen.put(f"{kind} {row_id}")
    for place in places:
        screen.put(f"  shard {place.artifact} {place.shard}, row {place.index}")
    for mixed in trace_row(catalog, store, row_id, places):
        _say_mixed(mixed)
    made = catalog.descendants([place.artifact for place in places])
    for version in catalog.names([ref for ref in made if ref.kind.is_model]):
        screen.put(f"  its data went into {version.name}@{version.version}")


def _say_mixed(mixed: "MixedAt") -> None:
    screen.put(
        f"  mixture {mixed.rows}, source {mixed.source}: {_some('row', mixed.row_numbers)}"
        if mixed.row_numbers
        else f"  mixture {mixed.rows}, source {mixed.source}: not drawn"
    )
    for read in mixed.trainings:
        where = _some("step", read.steps) if read.steps else "never read"
        screen.put(f"    training {read.run.run_id[:13]} of {read.run.recipe}: {where}")
        for point in read.checkpoints:
            screen.put(f"      checkpoint {point.artifact} at step {point.step}")
        for name, value in read.results:
            if "loss" in name:
                screen.put(f"      {name} {value:.4g}")


def _show_step(services: "Services", what: str, step: int) -> None:
    """The documents that one step of training read."""
    from interloom_flows.tracing import find_artifact, trace_step

    model = find_artifact(services.catalog, what)
    shown = screen.table(
        f"Step {step} of {model}", ">row", "source", "document", "licence", ">tokens"
    )
    for origin in trace_step(services.catalog, services.store, model, step):
        shown.add_row(
            str(origin.row),
            origin.source,
            origin.document_id,
            origin.licence,
            str(origin.num_tokens),
        )
    screen.out().print(shown)


def _add(shown: "Table", verb: str, made: "Made") -> None:
    names = ", ".join(made.names)
    shown.add_row(verb, str(made.artifact), f"{made.run.job} {made.run.run_id[:13]}", names)


def _some(noun: str, numbers: "tuple[int, ...]") -> str:
    """Numbers written out, at most so many."""
    written = ", ".join(str(number) for number in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{noun}{'s' if len(numbers) > 1 else ''} {written}{more}"
