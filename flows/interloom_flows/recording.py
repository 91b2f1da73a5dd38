"""How a pipeline's run stands in the catalog."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from interloom.config.recipe import Recipe
from interloom.core.ids import new_run_id
from interloom.ports.catalog import RunStart
from interloom.stages.contract import StageContract, record_reuse
from interloom.stages.leasing import held_run
from interloom_flows.listening import RunListener
from interloom_flows.planning import Plan

PRETRAINING = "pretraining"
MIXTURE_RERUN = "mixture_rerun"
NIGHTLY_EVALUATION = "nightly_evaluation"
PIPELINES = frozenset({PRETRAINING, MIXTURE_RERUN, NIGHTLY_EVALUATION})


def record_plan(contract: StageContract, plan: Plan, listener: RunListener) -> str:
    """Record a run in which every stage was reused; returns its id."""
    with pipeline_run(contract, plan.recipe) as run_id:
        for stage, reuse in plan.reused.items():
            record_reuse(contract, replace(reuse.call, parent_run_id=run_id), reuse.hit)
            listener.reused(stage)
    return run_id


@contextmanager
def pipeline_run(contract: StageContract, recipe: Recipe, job: str = PRETRAINING) -> Iterator[str]:
    """A pipeline's run in the catalog; it ends as the block does. Gives its id."""
    start = RunStart(
        run_id=new_run_id(), job=job, recipe=recipe.name, request_json=recipe.model_dump_json()
    )
    with held_run(contract.catalog, start, ttl_s=contract.lease_ttl_s) as run_id:
        yield run_id
