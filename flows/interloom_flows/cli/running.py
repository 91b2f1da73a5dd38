"""``run``, ``plan`` and ``evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from interloom.bootstrap import Services
    from interloom_flows.parameters import PipelineParameters
    from interloom_flows.planning import Plan
    from interloom_flows.results import RunSummary

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A committed recipe's name, or a .toml file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one value: --set pretrain.train.num_steps=100"
    ),
]
OnlyOption = Annotated[
    str | None, typer.Option("--only", metavar="STAGE", help="Stop at this stage.")
]


def run(
    recipe: RecipeArgument,
    set_: SetOption = None,
    only: OnlyOption = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Show what would run, and run nothing.")
    ] = False,
    strict_data: Annotated[
        bool,
        typer.Option(
            "--strict-data", help="Refuse to train on another starter corpus than data.dvc pins."
        ),
    ] = False,
) -> None:
    """Run a recipe: every stage whose result is not there yet."""
    parameters = _parameters(recipe, set_, only)
    if plan_only:
        _show_plan(parameters)
        return
    with opened() as services:
        if strict_data:
            first = _run(services, parameters.model_copy(update={"only": "ingest"}))
            _place_corpus(services, first, strict=True)
        summary = _run(services, parameters)
        _place_corpus(services, summary, strict=strict_data)
        _show_results(summary)
        _show_sounds(services, summary)
    _show_next()


def plan(recipe: RecipeArgument, set_: SetOption = None, only: OnlyOption = None) -> None:
    """Show what a run would reuse and what it would compute, and why. Runs nothing."""
    _show_plan(_parameters(recipe, set_, only))


def evaluate(recipe: RecipeArgument = "starter", set_: SetOption = None) -> None:
    """Bring a recipe's evaluation up to date and show all of its numbers."""
    with opened() as services:
        summary = _run(services, _parameters(recipe, set_, "evaluate"))
        _show_results(summary)
        _show_sounds(services, summary)


def _parameters(recipe: str, set_: list[str] | None, only: str | None) -> "PipelineParameters":
    from interloom_flows.parameters import PipelineParameters

    return PipelineParameters(recipe=recipe, overrides=tuple(set_ or ()), only=only)


def _show_plan(parameters: "PipelineParameters") -> None:
    from interloom_flows.planning import named_corpora, resolve

    recipe, steps = parameters.load()
    with opened() as services:
        corpora = named_corpora(services.catalog, recipe)
        planned = resolve(services.contract, recipe, steps, corpora)
    shown = screen.table(f"Plan of {recipe.name}", "stage", "", ">time", "why")
    for step in planned.steps:
        is_reused = step.reuse is not None
        took = "" if is_reused else screen.duration(step.estimate_s)
        shown.add_row(step.step.stage, "reuse" if is_reused else "run", took, step.why)
    screen.out().print(shown)
    screen.out().print(_plan_sum(planned))


def _plan_sum(planned: "Plan") -> str:
    known = [step.estimate_s for step in planned.to_run if step.estimate_s is not None]
    unknown = len(planned.to_run) - len(known)
    if not planned.to_run:
        return "Everything is there: nothing would be computed."
    took = f", about {screen.duration(sum(known))} by the last run" if known else ""
    doubt = f" ({unknown} never timed on this machine)" if unknown else ""
    return f"{len(planned.to_run)} of {len(planned.steps)} stages would run{took}{doubt}."


def _run(services: "Services", parameters: "PipelineParameters") -> "RunSummary":
    """Run with a display; gives what came of it."""
    from interloom_flows.cli.display import watching
    from interloom_flows.results import summarise
    from interloom_flows.running import run_recipe

    recipe, steps = parameters.load()
    console = screen.err()
    about = f": {recipe.description}" if recipe.description else ""
    console.print(f"Running {recipe.name}{about}", markup=False, soft_wrap=True)
    with watching(console, {step.stage: step.title for step in steps}) as listener:
        run_id = run_recipe(services, parameters, listener)
    return summarise(services.catalog, services.catalog.run(run_id))


def _place_corpus(services: "Services", summary: "RunSummary", *, strict: bool) -> None:
    """In the repository, put the starter corpus into data/ and compare it with its pin."""
    from interloom.config.recipe import Recipe
    from interloom.corpora.pinned import PIN, is_pinned_world, place_starter_corpus

    recipe = Recipe.model_validate_json(summary.run.request_json)
    here = Path.cwd()
    if (here / PIN).is_file() and is_pinned_world(recipe.ingest, recipe.seed):
        check = place_starter_corpus(services.store, summary.outputs, here, strict=strict)
        if check.warning:
            screen.say(f"warning: {check.warning}")


def _show_results(summary: "RunSummary") -> None:
    """The numbers of the evaluation, or of all stages where there is none."""
    shown = screen.table(
        f"Run {summary.run.run_id[:13]} of {summary.run.recipe}", "result", ">value", ">interval"
    )
    for stage, numbers in summary.numbers.items():
        for number in numbers if stage == "evaluate" or "evaluate" not in summary.numbers else ():
            has_interval = number.low is not None and number.high is not None
            interval = f"{number.low:.3f} .. {number.high:.3f}" if has_interval else ""
            value = "no items" if number.value is None else f"{number.value:.4g}"
            shown.add_row(number.name, value, interval)
    screen.out().print(shown)


def _show_sounds(services: "Services", summary: "RunSummary") -> None:
    """Copy the WAV files of the evaluation and say where they are."""
    from interloom_flows.results import save_sounds

    evaluation = summary.outputs.get("evaluation")
    if evaluation is None:
        return
    folder = services.settings.home / "results" / summary.run.run_id
    for path in save_sounds(services.store, evaluation, folder):
        screen.out().print(f"listen: {path}", markup=False, soft_wrap=True)


def _show_next() -> None:
    screen.out().print("Open the dashboard:  interloom dashboard", markup=False)
    screen.out().print(
        "Use your own data:   interloom ingest speech FOLDER --name my-speech",
        markup=False,
        soft_wrap=True,
    )
