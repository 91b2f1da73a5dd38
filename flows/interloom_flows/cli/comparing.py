"""``diff`` and ``mixtures``: runs beside each other."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from interloom.bootstrap import Services
    from interloom.evaluation.choice import ItemScores
    from interloom.evaluation.numbers import Number
    from interloom.ports.catalog import MixtureComponent
    from interloom_flows.results import RunSummary

_RESULTS = ("cloze/S->S/story", "cloze/T->T/story", "chat/right")

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="An id or its beginning, a recipe's name for its newest, or last."
    ),
]


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
        screen.put(line)
    before, after = (numbers_of(summary) for summary in summaries)
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
        shown.add_row(name, with_bounds(a), with_bounds(b), change, split, chance)
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


def mixtures(
    show: Annotated[
        list[str], typer.Option("--show", metavar="RESULT", help="Results beside each mixture.")
    ] = list(_RESULTS),  # noqa: B006 - Typer copies it
    limit: Annotated[int, typer.Option(help="How many mixtures to list.", min=1)] = 20,
) -> None:
    """List the mixtures that were tried, newest first: what was drawn, and what came of it.

    Each line's run can be named to other commands: interloom diff RUN.
    """
    from itertools import islice

    with opened() as services:
        tried = list(islice(_tried(services), limit))
    if not tried:
        screen.out().print("No mixture yet. Make one with: interloom run starter")
        return
    shown = screen.table("", "run", "recipe", "drawn", ">tokens", *(f">{name}" for name in show))
    for summary, components in tried:
        numbers = numbers_of(summary)
        total = sum(one.tokens_drawn for one in components)
        shown.add_row(
            summary.run.run_id[:13],
            summary.run.recipe,
            ", ".join(f"{one.source} {one.tokens_drawn / total:.0%}" for one in components),
            f"{total:,}",
            *(with_bounds(numbers.get(name)) for name in show),
        )
    screen.out().print(shown)


def _tried(services: "Services") -> "Iterator[tuple[RunSummary, Sequence[MixtureComponent]]]":
    """Complete runs with a mixture; of those that reused all of another's work, the newest."""
    from interloom.ports.catalog import RunState
    from interloom_flows.results import pipelines, summarise

    seen = set[tuple[str | None, ...]]()
    for run in pipelines(services.catalog):
        if run.state is not RunState.COMPLETE:
            continue
        summary = summarise(services.catalog, run)
        keys = tuple(stage.stage_key for stage in summary.stages)
        mixed = next((stage for stage in summary.stages if stage.job == "mix"), None)
        components = services.catalog.mixture(mixed.run_id) if mixed else ()
        if keys not in seen and any(one.tokens_drawn > 0 for one in components):
            seen.add(keys)
            yield summary, components


def numbers_of(summary: "RunSummary") -> "dict[str, Number]":
    """The results of all stages that have a value."""
    return {
        number.name: number
        for numbers in summary.numbers.values()
        for number in numbers
        if number.value is not None
    }


def with_bounds(number: "Number | None") -> str:
    """Its value, and its interval where it has one."""
    if number is None:
        return ""
    has_bounds = number.low is not None and number.high is not None
    bounds = f" ({number.low:.3g} .. {number.high:.3g})" if has_bounds else ""
    return f"{number.value:.4g}{bounds}"
