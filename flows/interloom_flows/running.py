"""Run a recipe: at once from the catalog if everything is there, else through Prefect."""

from collections.abc import Iterator
from contextlib import contextmanager

from interloom.bootstrap import Services
from interloom.config.recipe import Recipe
from interloom.core.ids import new_run_id
from interloom.ports.catalog import Catalog, RunStart, RunState
from interloom_flows.listening import LISTENER, RunListener
from interloom_flows.parameters import PipelineParameters
from interloom_flows.planning import Plan, named_corpora, resolve
from interloom_flows.prefect_home import prefect_api

PIPELINE = "pretraining"


def run_recipe(services: Services, parameters: PipelineParameters, listener: RunListener) -> str:
    """Run, or reuse, every stage; Prefect and its server are started only if one must run.

    Returns:
        The id of the pipeline's run in the catalog.

    Raises:
        ConfigError: The recipe or a setting is wrong.
        DataError: A stage refused its data.
        TransientError: A stage failed more often than it is tried.
    """
    recipe, steps = parameters.load()
    plan = resolve(services.contract, recipe, steps, named_corpora(services.catalog, recipe))
    if not plan.to_run:
        return record_reuse(services.catalog, plan, listener)
    with prefect_api(services.settings.home, services.settings.prefect_api_url):
        from interloom_flows.pipelines import pretraining_pipeline  # imports Prefect

        token = LISTENER.set(listener)
        try:
            return pretraining_pipeline(parameters)
        finally:
            LISTENER.reset(token)


def record_reuse(catalog: Catalog, plan: Plan, listener: RunListener) -> str:
    """Record a run in which every stage was reused; returns its id."""
    with pipeline_run(catalog, plan.recipe) as run_id:
        for stage, reuse in plan.reused.items():
            start = RunStart(
                run_id=new_run_id(),
                job=stage,
                recipe=plan.recipe.name,
                parent_run_id=run_id,
                stage_key=reuse.hit.stage_key,
                request_json=reuse.call.request.model_dump_json(),
            )
            catalog.record_hit(start, reuse.hit, reuse.call.request.inputs())
            listener.reused(stage)
    return run_id


@contextmanager
def pipeline_run(catalog: Catalog, recipe: Recipe, job: str = PIPELINE) -> Iterator[str]:
    """A pipeline's run in the catalog; it ends as the block does. Gives its id."""
    run_id = new_run_id()
    catalog.start_run(
        RunStart(run_id=run_id, job=job, recipe=recipe.name, request_json=recipe.model_dump_json())
    )
    try:
        yield run_id
    except Exception as error:
        catalog.end_run(run_id, RunState.FAILED, str(error))
        raise
    except BaseException as error:
        catalog.end_run(run_id, RunState.ABORTED, type(error).__name__)
        raise
    catalog.end_run(run_id, RunState.COMPLETE)
