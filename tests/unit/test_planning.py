"""Plans: what is reused, what runs, and why. Stages are hollow; everything around them is real."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from interloom.config.patches import PATCH_SIZE
from interloom.config.recipe import Recipe, recipe_of
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, MissingError
from interloom.core.ids import new_run_id
from interloom.evaluation.numbers import fold_intervals
from interloom.ports.catalog import RunStart, RunState, Usage
from interloom.stages.contract import StageContract, execute_stage
from interloom.stages.pricing import Prices
from interloom.testing import catalog as catalogs
from interloom.testing.hollow import HollowLauncher
from interloom.testing.store import MemoryStore
from interloom_flows.pipeline import Inputs, pretraining_steps
from interloom_flows.planning import (
    Plan,
    PlanCost,
    PlannedStep,
    dataset_named,
    named_corpora,
    request_changes,
    resolve,
    stage_call,
)
from interloom_flows.recording import pipeline_run, record_plan
from interloom_flows.results import find_run, summarise

ALL = [step.stage for step in pretraining_steps(Recipe(name="r"))]


class Watching:
    """Remembers which stages were reused."""

    def __init__(self) -> None:
        self.reuses: list[str] = []

    def reused(self, stage: str) -> None:
        self.reuses.append(stage)


@pytest.fixture
def contract(tmp_path: Path) -> Iterator[StageContract]:
    store = MemoryStore()
    with catalogs.temporary() as catalog:
        yield StageContract(
            store=store, catalog=catalog, launcher=HollowLauncher(store), work_folder=tmp_path
        )


def recipe(*overrides: str) -> Recipe:
    values = {
        "name": "r",
        "mixture": {"text": {"budget": {"kind": "share", "share": 0.3}}},
        "pretrain": {"train": {"num_steps": 50, "learning_rate": 0.001, "gradient_clip": 1.0}},
        "sft": {"rows_per_batch": 4},
    }
    return recipe_of(values, overrides)


def plan(contract: StageContract, wanted: Recipe) -> Plan:
    return resolve(contract, wanted, pretraining_steps(wanted), {})


def run(contract: StageContract, wanted: Recipe) -> str:
    inputs = Inputs()
    with pipeline_run(contract, wanted) as run_id:
        for step in pretraining_steps(wanted):
            call = stage_call(wanted, step, inputs, run_id)
            inputs = inputs.with_result(step.stage, execute_stage(contract, call).result)
    return run_id


def reasons(planned: Plan) -> dict[str, str]:
    return {step.step.stage: step.why for step in planned.to_run}


def test_a_first_run_computes_everything(contract: StageContract) -> None:
    planned = plan(contract, recipe())

    assert reasons(planned) == dict.fromkeys(ALL, "never ran in this recipe")


def test_a_second_run_reuses_everything(contract: StageContract) -> None:
    run(contract, recipe())

    planned = plan(contract, recipe())

    assert planned.to_run == ()
    assert list(planned.reused) == ALL


def test_another_mixture_runs_again_from_mix_on_only(contract: StageContract) -> None:
    run(contract, recipe())

    planned = plan(contract, recipe("mixture.text.budget.share=0.25"))

    assert reasons(planned) == {
        "mix": "mixture.text.budget.share 0.3 -> 0.25",
        "pretrain": "follows mix",
        "sft": "follows pretrain",
        "evaluate": "follows sft",
    }
    assert [step.estimate_s for step in planned.to_run] == [2.0] * 4


def test_tasks_are_spoken_again_only_if_what_is_asked_aloud_changes(
    contract: StageContract,
) -> None:
    run(contract, recipe())

    measured = plan(contract, recipe("evaluate.confidence=0.9"))
    asked = plan(contract, recipe("evaluate.cloze_voices=2"))

    assert reasons(measured) == {"evaluate": "evaluate.confidence 0.95 -> 0.9"}
    assert reasons(asked) == {
        "speak_tasks": "evaluate.cloze_voices 4 -> 2",
        "evaluate": "evaluate.cloze_voices 4 -> 2",
    }


def test_a_changed_setting_behind_a_changed_input_is_named_too(contract: StageContract) -> None:
    run(contract, recipe())

    planned = plan(
        contract, recipe("mixture.text.budget.share=0.25", "pretrain.train.gradient_clip=0.75")
    )

    assert reasons(planned)["pretrain"] == "pretrain.train.gradient_clip 1.0 -> 0.75"


def test_another_seed_is_named_for_every_stage(contract: StageContract) -> None:
    run(contract, recipe())

    assert set(reasons(plan(contract, recipe("seed=1"))).values()) == {"seed 0 -> 1"}


def test_a_reused_run_is_recorded_with_its_lineage(contract: StageContract) -> None:
    first = run(contract, recipe())
    watching = Watching()

    second = record_plan(contract, plan(contract, recipe()), watching)  # type: ignore[arg-type]

    one, two = (
        summarise(contract.catalog, contract.catalog.run(run_id)) for run_id in (first, second)
    )
    assert two.outputs == one.outputs
    assert watching.reuses == ALL
    assert all(stage.is_cache_hit for stage in two.stages)
    assert two.run.state is RunState.COMPLETE


def test_a_plan_after_a_reused_run_still_knows_the_reason(contract: StageContract) -> None:
    run(contract, recipe())
    record_plan(contract, plan(contract, recipe()), Watching())  # type: ignore[arg-type]

    planned = plan(contract, recipe("sft.rows_per_batch=2"))

    assert reasons(planned) == {"sft": "sft.rows_per_batch 4 -> 2", "evaluate": "follows sft"}


def test_a_mixture_without_interleaved_data_makes_none(contract: StageContract) -> None:
    wanted = recipe("mixture.interleaved=none")

    assert "interleave" not in [step.stage for step in pretraining_steps(wanted)]
    run(contract, wanted)
    assert plan(contract, wanted).to_run == ()


def test_only_a_stage_needs_what_it_reads() -> None:
    steps = pretraining_steps(recipe(), only="train_decoder")

    assert [step.stage for step in steps] == [
        "ingest",
        "train_tokenizer",
        "tokenize_speech",
        "train_decoder",
    ]


def test_steps_come_after_what_they_read() -> None:
    seen: set[str] = set()
    for step in pretraining_steps(recipe()):
        assert seen >= set(step.after)
        seen.add(step.stage)


def test_every_input_of_every_stage_is_made_by_a_step_before_it(contract: StageContract) -> None:
    inputs = Inputs()
    for step in pretraining_steps(recipe()):
        call = stage_call(recipe(), step, inputs)
        named = {
            name
            for name, field in step.request_type.model_fields.items()
            if field.annotation is ArtifactRef
        }
        assert call.request.inputs().keys() >= named
        inputs = inputs.with_result(step.stage, execute_stage(contract, call).result)


def test_ranks_and_threads_of_training_come_from_the_recipe() -> None:
    wanted = recipe("tokenizer.training.num_ranks=2", "tokenizer.training.threads_per_rank=3")
    step = next(step for step in pretraining_steps(wanted) if step.stage == "train_tokenizer")
    ref = ArtifactRef(ArtifactKind.TEXT_CORPUS, "0" * 64)
    request = step.request_type.model_validate(
        {"speech": ref, "text_tokenizer": ref, "config": wanted.tokenizer}
    )

    class Ingested:
        def outputs(self) -> dict[str, ArtifactRef]:
            return request.inputs()  # type: ignore[return-value]

    call = stage_call(wanted, step, Inputs({"ingest": Ingested()}))  # type: ignore[dict-item]

    assert (call.num_ranks, call.threads_per_rank) == (2, 3)


def test_named_corpora_are_looked_up(contract: StageContract) -> None:
    wanted = recipe(
        "ingest.source.kind=catalog",
        "ingest.source.speech=my-speech",
        'ingest.source.text="my-text@2"',
    )

    with pytest.raises(MissingError, match="my-speech"):
        named_corpora(contract.catalog, wanted)


def test_a_corpus_is_named_by_version_or_alias(contract: StageContract) -> None:
    wanted = recipe(
        "ingest.source.kind=catalog", 'ingest.source.speech="s@best"', 'ingest.source.text="s@1"'
    )
    run(contract, recipe())
    made = contract.catalog.dataset("r/ingest.speech")
    contract.catalog.publish_dataset("s", contract.store.manifest(made.ref), new_run(contract))
    contract.catalog.tag("s", "best", 1, "ada")

    assert named_corpora(contract.catalog, wanted) == {"speech": made.ref, "text": made.ref}
    with pytest.raises(MissingError, match="'s' has no alias 'new'; its aliases are best"):
        dataset_named(contract.catalog, "s@new")
    with pytest.raises(ConfigError, match="a version or an alias is missing behind the @"):
        dataset_named(contract.catalog, "s@")


def test_a_start_that_is_no_language_model_is_refused(contract: StageContract) -> None:
    run(contract, recipe())

    with pytest.raises(ConfigError, match=r"pretrain.start: r/ingest.speech is a \w+, not a"):
        named_corpora(contract.catalog, recipe('pretrain.start="r/ingest.speech"'))
    with pytest.raises(MissingError, match="my-model"):
        named_corpora(contract.catalog, recipe("pretrain.start=my-model"))


@pytest.mark.parametrize(
    ("held", "patches", "message"),
    [
        (2, ["kind=off"], r"patches of 2 tokens, pretrain\.patches has 0 \(0 is none\)"),
        (2, ["kind=static", "size=4"], r"patches of 2 tokens, pretrain\.patches has 4"),
        (0, ["kind=static", "size=2"], r"patches of 0 tokens, pretrain\.patches has 2"),
    ],
)
def test_a_start_of_other_patches_is_refused_before_anything_runs(
    contract: StageContract, held: int, patches: list[str], message: str
) -> None:
    with contract.store.draft(ArtifactKind.LANGUAGE_MODEL) as draft:
        with draft.shard("weights") as shard:
            shard.path.write_bytes(b"weights")
        model = draft.commit(facts={PATCH_SIZE: held})
    manifest = contract.store.manifest(model)
    contract.catalog.publish_dataset("base", manifest, new_run(contract))
    changes = [f"pretrain.patches.{one}" for one in patches]

    with pytest.raises(ConfigError, match=message):
        named_corpora(contract.catalog, recipe("pretrain.start=base", *changes))


def test_rows_that_the_recipe_names_are_mixed_instead_of_making_some(
    contract: StageContract,
) -> None:
    run(contract, recipe())
    with contract.store.draft(ArtifactKind.INTERLEAVED) as draft:
        with draft.shard("report.json") as shard:
            shard.path.write_text("{}")
        rows = draft.commit(licences=["CC0-1.0"])
    readmitted = contract.store.manifest(rows)
    contract.catalog.publish_dataset("r/readmit.interleaved", readmitted, new_run(contract))
    wanted = recipe("interleave.rows=r/readmit.interleaved@1")  # as readmit prints it

    named = named_corpora(contract.catalog, wanted)
    planned = resolve(contract, wanted, pretraining_steps(wanted), named)

    assert named == {"interleaved": rows}
    assert "interleave" not in {one.step.stage for one in planned.steps}
    assert [one.step.stage for one in planned.to_run] == ["mix", "pretrain", "sft", "evaluate"]
    call = stage_call(wanted, planned.to_run[0].step, planned.inputs)
    assert call.request.inputs()["interleaved"] == rows


def test_rows_that_are_not_interleaved_are_refused(contract: StageContract) -> None:
    run(contract, recipe())

    with pytest.raises(ConfigError, match=r"interleave.rows: r/ingest.text is a \w+, not inter"):
        named_corpora(contract.catalog, recipe('interleave.rows="r/ingest.text"'))
    assert (
        named_corpora(
            contract.catalog, recipe("interleave.rows=nothing", "mixture.interleaved=none")
        )
        == {}
    )


def new_run(contract: StageContract) -> str:
    run_id = new_run_id()
    contract.catalog.start_run(RunStart(run_id, "ingest_speech", "s"))
    return run_id


def test_a_stage_asked_for_anew_runs_although_its_result_is_there(contract: StageContract) -> None:
    run(contract, recipe())
    steps = pretraining_steps(recipe())

    planned = resolve(contract, recipe(), steps, {}, fresh={"mix"})

    assert next(step.why for step in planned.to_run) == "asked for anew"
    assert planned.to_run[0].step.stage == "mix"


def test_the_cost_of_a_plan_is_what_its_steps_used_at_todays_prices() -> None:
    used = Usage(wall_s=1800.0, cpu_s=7200.0, num_gpus=8)
    steps = pretraining_steps(recipe())[:3]
    planned = (
        PlannedStep(steps[0], None, "new", used),
        PlannedStep(steps[1], None, "new", used),
        PlannedStep(steps[2], None, "new"),
    )

    cost = Plan(recipe(), planned, Inputs()).cost(Prices(gpu_hour=2.5, cpu_hour=0.05))

    assert cost == PlanCost(num_unknown=1, wall_s=3600.0, gpu_hours=8.0, price=20.2)


def test_an_input_that_changed_is_called_so() -> None:
    was = {"speech": {"kind": "speech_corpus", "id": "a"}, "config": {"x": [1, 2]}}
    now = {"speech": {"kind": "speech_corpus", "id": "b"}, "config": {"x": [1, 3]}}

    assert list(request_changes(was, now, "decoder")) == [
        "decoder.x [1, 2] -> [1, 3]",
        "speech changed",
    ]


def test_a_run_is_found_by_recipe_by_id_and_as_the_last(contract: StageContract) -> None:
    run_id = run(contract, recipe())

    found = [find_run(contract.catalog, name).run_id for name in ("last", "r", run_id[:20])]

    assert found == [run_id] * 3


def test_a_run_that_lacks_what_is_needed_is_not_the_last(contract: StageContract) -> None:
    run_id = run(contract, recipe())
    with pipeline_run(contract, recipe()):
        pass

    assert find_run(contract.catalog, "last", ["chat_model"]).run_id == run_id


def test_without_a_complete_run_there_is_no_last(contract: StageContract) -> None:
    with pytest.raises(MissingError, match="no run is complete yet; start one with"):
        find_run(contract.catalog, "last")


def test_a_failed_pipeline_ends_with_its_error(contract: StageContract) -> None:
    with (
        pytest.raises(ConfigError, match="no such thing"),
        pipeline_run(contract, recipe()) as run_id,
    ):
        raise ConfigError("no such thing")

    record = contract.catalog.run(run_id)
    assert (record.state, record.error) == (RunState.FAILED, "no such thing")


def test_intervals_are_folded_into_their_number() -> None:
    numbers = fold_intervals(
        {"a/wer": 0.1, "a/wer/low": 0.05, "a/wer/high": 0.2, "a/wer/n": 40.0, "b": 1.0}
    )

    assert [(n.name, n.value, n.low, n.high, n.num_items) for n in numbers] == [
        ("a/wer", 0.1, 0.05, 0.2, 40),
        ("b", 1.0, None, None, None),
    ]


def test_what_had_no_items_is_a_number_without_a_value() -> None:
    numbers = fold_intervals({"cloze/S->S/n": 0.0, "a": 0.5, "a/n": 2.0})

    assert [(n.name, n.value, n.num_items) for n in numbers] == [
        ("a", 0.5, 2),
        ("cloze/S->S", None, 0),
    ]
