"""Run a recipe: at once from the catalog if everything is there, else through Prefect."""

from interloom.bootstrap import Services
from interloom.stages.closure import steady_code
from interloom.stages.leasing import end_dead_runs
from interloom_flows.listening import CALLER, Caller, RunListener
from interloom_flows.parameters import PipelineParameters
from interloom_flows.planning import named_corpora, resolve
from interloom_flows.prefect_home import prefect_api
from interloom_flows.recording import record_plan
from interloom_flows.telling import tell_lineage


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
    end_dead_runs(services.catalog)
    corpora = named_corpora(services.catalog, recipe)
    try:
        with steady_code():
            plan = resolve(services.contract, recipe, steps, corpora, fresh=parameters.fresh)
            if not plan.to_run:
                return record_plan(services.contract, plan, listener)
            services.launcher.check(plan.demand)
        return _run_in_prefect(services, parameters, listener)
    finally:
        tell_lineage(services)


def _run_in_prefect(
    services: Services, parameters: PipelineParameters, listener: RunListener
) -> str:
    with prefect_api(services.settings.home, services.settings.prefect_api_url):
        from interloom_flows.pipelines import pretraining_pipeline  # imports Prefect

        token = CALLER.set(Caller(services, listener))
        try:
            return pretraining_pipeline(parameters)
        finally:
            CALLER.reset(token)
