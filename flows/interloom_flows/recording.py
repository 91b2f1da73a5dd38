"""How a pipeline's run stands in the catalog."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from interloom.config.recipe import Recipe
from interloom.core.ids import new_run_id
from interloom.ports.catalog import Catalog, RunStart, RunState
from interloom.stages.contract import StageContract, record_reuse
from interloom_flows.listening import RunListener
from interloom_flows.planning import Plan

PRETRAINING = "pretraining"
MIXTURE_RERUN = "mixture_rerun"
NIGHTLY_EVALUATION = "nightly_evaluation"
PIPELINES = frozenset({PRETRAINING, MIXTURE_RERUN, NIGHTLY_EVALUATION})


def record_plan(contract: StageContract, plan: Plan, listener: RunListener) -> str:
    """Record a run in which every stage was reused; returns its id."""
    with pipeline_run(contract.catalog, plan.recipe) as run_id:
        for stage, reuse in plan.reused.items():
            record_reuse(contract, replace(reuse.call, parent_run_id=run_id), reuse.hit)
            listener.reused(stage)
    return run_id


@contextmanager
def pipeline_run(catalog: Catalog, recipe: Recipe, job: str = PRETRAINING) -> Iterator[str]:
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
