from dataclasses import replace

from interloom.evaluation.numbers import Number
from interloom.ports.catalog import RunRecord, RunState, Usage
from interloom_flows.results import RunSummary, speech_costs

STAGE = RunRecord(
    run_id="r",
    job="interleave",
    recipe="smoke",
    state=RunState.COMPLETE,
    parent_run_id=None,
    stage_key=None,
    is_cache_hit=False,
    started_at="2026-01-01T00:00:00",
    ended_at=None,
    error=None,
    usage=Usage(cpu_s=50.0, price=2.0),
    request_json="{}",
)


def summary(*stages: RunRecord, tokens: float = 25_000) -> RunSummary:
    numbers = {"interleave": (Number("interleave/speech_tokens", tokens),)}
    return RunSummary(run=STAGE, stages=stages, outputs={}, numbers=numbers)


def test_a_kept_speech_token_costs_its_share_of_the_stage() -> None:
    assert list(speech_costs(summary(STAGE))) == [("interleave", 2.0, 80.0)]


def test_stages_without_speech_and_reused_ones_cost_nothing_a_token() -> None:
    reused = replace(STAGE, is_cache_hit=True)
    other = replace(STAGE, job="mix")

    assert list(speech_costs(summary(reused, other))) == []
    assert list(speech_costs(summary(STAGE, tokens=0))) == []
