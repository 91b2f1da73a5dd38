"""``run``, ``plan`` and ``evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom_flows.cli import estimating, screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from interloom.bootstrap import Services
    from interloom.stages.pricing import Prices
    from interloom_flows.parameters import PipelineParameters
    from interloom_flows.planning import Plan
    from interloom_flows.results import RunSummary

MixResults = dict[str, float] | None
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
ParanoidOption = Annotated[
    bool, typer.Option("--paranoid", help="Hash every byte of what is reused, not a sample.")
]
FreshOption = Annotated[
    list[str] | None,
    typer.Option("--fresh", metavar="STAGE", help="Run this stage even if its result is there."),
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
    paranoid: ParanoidOption = False,
    fresh: FreshOption = None,
) -> None:
    """Run a recipe: every stage whose result is not there yet."""
    parameters = _parameters(recipe, set_, only, fresh)
    if plan_only:
        _show_plan(parameters, paranoid=paranoid)
        return
    with opened(paranoid=paranoid) as services:
        if strict_data:
            first = _run(services, parameters.model_copy(update={"only": "ingest"}))
            _place_corpus(services, first, strict=True)
        summary = _run(services, parameters)
        _place_corpus(services, summary, strict=strict_data)
        _show_results(summary)
        _show_alarms(summary)
        _show_sounds(services, summary)
    _show_next()


def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    only: OnlyOption = None,
    paranoid: ParanoidOption = False,
    fresh: FreshOption = None,
    gpu_tflops: Annotated[
        float, typer.Option(help="Peak of one GPU, for the hours of pre-training.", min=0.001)
    ] = estimating.PEAK_TFLOPS,
    mfu: Annotated[
        float, typer.Option(help="The part of its peak that it reaches.", min=0.001, max=1)
    ] = estimating.MFU,
) -> None:
    """Show what a run would reuse and what it would compute, why, and at what cost.

    Ends with tokens by source, and with parameters, FLOPs, memory, GPU-hours and storage of
    pre-training on paper. A recipe whose corpora are not there yet is planned on paper alone.
    """
    parameters = _parameters(recipe, set_, only, fresh)
    drawn, before = _show_plan(parameters, paranoid=paranoid)
    loaded, steps = parameters.load()
    stages = {step.stage for step in steps}
    if "mix" in stages:
        estimating.show_asked(loaded, drawn, before)
    if "pretrain" in stages:
        estimating.show_budget(loaded, drawn, peak_tflops=gpu_tflops, mfu=mfu)


def evaluate(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="[tokenizer|RECIPE]",
            help="A recipe; or 'tokenizer', for it alone and in depth.",
        ),
    ] = "starter",
    of: Annotated[
        str, typer.Argument(metavar="[RECIPE]", help="After 'tokenizer': whose tokenizer.")
    ] = "starter",
    set_: SetOption = None,
) -> None:
    """Bring a recipe's evaluation up to date and show all of its numbers."""
    is_tokenizer = recipe == "tokenizer"
    only = "evaluate_tokenizer" if is_tokenizer else "evaluate"
    with opened() as services:
        summary = _run(services, _parameters(of if is_tokenizer else recipe, set_, only))
        _show_results(summary)
        _show_sounds(services, summary)


def _parameters(
    recipe: str, set_: list[str] | None, only: str | None, fresh: list[str] | None = None
) -> "PipelineParameters":
    from interloom_flows.parameters import PipelineParameters

    return PipelineParameters(
        recipe=recipe, overrides=tuple(set_ or ()), only=only, fresh=tuple(fresh or ())
    )


def _show_plan(
    parameters: "PipelineParameters", *, paranoid: bool
) -> tuple[MixResults, MixResults]:
    """Show the stages; gives the results of ``mix``, and those of its last run if it will run."""
    from interloom.core.errors import MissingError
    from interloom_flows.planning import named_corpora, resolve

    recipe, steps = parameters.load()
    with opened(paranoid=paranoid) as services:
        try:
            corpora = named_corpora(services.catalog, recipe)
        except MissingError as error:
            screen.put(f"Cannot run yet: {error}")
            return None, None
        planned = resolve(services.contract, recipe, steps, corpora, fresh=parameters.fresh)
        prices = services.contract.prices
        mixes = any(one.step.stage == "mix" for one in planned.to_run)
        last = services.catalog.last_run("mix", recipe.name) if mixes else None
        before = services.catalog.metrics(last.run_id) if last is not None else ()
    shown = screen.table(f"Plan of {recipe.name}", "stage", "", ">time", ">GPU-hours", "why")
    for step in planned.steps:
        is_reused = step.reuse is not None
        took = "" if is_reused else screen.duration(step.estimate_s)
        gpu_hours = f"{step.before.gpu_hours:.2f}" if step.before and step.before.num_gpus else ""
        shown.add_row(step.step.stage, "reuse" if is_reused else "run", took, gpu_hours, step.why)
    screen.out().print(shown)
    screen.out().print(_plan_sum(planned, prices))
    mixed = planned.reused.get("mix")
    drawn = {metric.name: metric.value for metric in mixed.result.metrics} if mixed else None
    return drawn, {metric.name: metric.value for metric in before} or None


def _plan_sum(planned: "Plan", prices: "Prices") -> str:
    cost = planned.cost(prices)
    if not planned.to_run:
        return "Everything is there: nothing would be computed."
    took = f", about {screen.duration(cost.wall_s)} by the last run" if cost.wall_s else ""
    gpus = f", {cost.gpu_hours:.2f} GPU-hours" if cost.gpu_hours else ""
    money = f", about {cost.price:.2f} {prices.currency}" if cost.price else ""
    doubt = f" ({cost.num_unknown} never timed on this machine)" if cost.num_unknown else ""
    return (
        f"{len(planned.to_run)} of {len(planned.steps)} stages would run{took}{gpus}{money}{doubt}."
    )


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
    judged = summary.numbers.keys() & {"evaluate", "evaluate_tokenizer"}
    for stage, numbers in summary.numbers.items():
        for number in numbers if stage in judged or not judged else ():
            has_interval = number.low is not None and number.high is not None
            interval = f"{number.low:.3f} .. {number.high:.3f}" if has_interval else ""
            value = "no items" if number.value is None else f"{number.value:.4g}"
            shown.add_row(number.name, value, interval)
    screen.out().print(shown)


def _show_alarms(summary: "RunSummary") -> None:
    """What in the results looks like a known failure."""
    from interloom.quality.alarms import alarms

    found = [number for numbers in summary.numbers.values() for number in numbers]
    values = {number.name: number.value for number in found if number.value is not None}
    lows = {f"{number.name}/low": number.low for number in found if number.low is not None}
    for alarm in alarms(values | lows):
        screen.say(f"look: {alarm.signature} ({alarm.observed}): {alarm.meaning}")


def _show_sounds(services: "Services", summary: "RunSummary") -> None:
    """Copy the WAV files of the evaluation and say where they are."""
    from interloom_flows.results import save_sounds

    evaluation = summary.outputs.get("evaluation")
    if evaluation is None:
        return
    folder = services.settings.home / "results" / summary.run.run_id
    for path in save_sounds(services.store, evaluation, folder):
        screen.put(f"listen: {path}")


def _show_next() -> None:
    screen.out().print("Open the dashboard:  interloom dashboard", markup=False)
    screen.put("Use your own data:   interloom ingest speech FOLDER --name my-speech")
