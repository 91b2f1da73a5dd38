"""Each way of cutting of the sweep, and two more: mixed, trained, fine-tuned, evaluated, tiny."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from interloom.config.base import Frozen
from interloom.config.evaluation import SpokenTasksConfig
from interloom.config.recipe import Recipe
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.corpora.tables import DOCUMENTS, write_table
from interloom.ports.workspace import Workspace
from interloom.stages.build_dialogues import BuildDialoguesRequest, build_dialogues
from interloom.stages.evaluate import EvaluateRequest, EvaluateResult, evaluate
from interloom.stages.mix import MixRequest, mix
from interloom.stages.pretrain import PretrainRequest, PretrainResult, pretrain
from interloom.stages.result import StageRequest
from interloom.stages.sft import SftRequest, sft
from interloom.stages.speak_tasks import SpeakTasksRequest, speak_tasks
from interloom.testing.engine import PlainEngine
from interloom.testing.store import MemoryStore
from interloom.testing.tiny_chain import LICENCE, TEXTS, TinyChain, build_tiny_chain
from interloom_flows.recipes import load_recipe
from interloom_flows.sweeps import load_sweep

R = TypeVar("R", bound=StageRequest)
SWEEP = load_sweep("patches")
SHRUNK = (
    "mixture.row_length=64",
    "mixture.total_tokens=1500",
    "mixture.heldout_tokens=200",
    "mixture.interleaved=none",
    'mixture.speech.budget={kind="rest"}',
    "mixture.text.max_epochs=1000",
    "mixture.speech.max_epochs=1000",
    "mixture.transcribe.max_epochs=1000",
    "mixture.speak.max_epochs=1000",
    "pretrain.model.hidden_size=16",
    "pretrain.model.num_layers=1",
    "pretrain.model.num_heads=2",
    "pretrain.model.num_kv_heads=1",
    "pretrain.model.ffn_size=16",
    "pretrain.patches.local_size=8",
    "pretrain.patches.local_heads=1",
    "pretrain.patches.local_ffn_size=16",
    "pretrain.rows_per_batch=2",
    "pretrain.train.num_steps=6",
    "pretrain.train.warmup_steps=1",
    "pretrain.train.log_every_steps=2",
    "sft.row_length=96",
    "sft.train.num_steps=2",
    "sft.train.warmup_steps=1",
    "dialogues.user.judged_share=0.0",
    "dialogues.assistant.judged_share=0.0",
    "dialogues.assistant.voice=none",
    "evaluate.task_speech.judged_share=0.0",
    "evaluate.max_utterances=2",
    "evaluate.max_decoded=1",
    "evaluate.max_texts=1",
    "evaluate.max_cloze_per_group=2",
    "evaluate.max_transcribed=2",
    "evaluate.max_transcript_text=8",
    "evaluate.max_questions=1",
    "evaluate.max_chats=1",
    "evaluate.num_resamples=20",
    "evaluate.answer.max_new_tokens=10",
)
FIRST = {
    label: arm
    for label, arm in zip(SWEEP.labels, SWEEP.arms, strict=True)
    if not label.endswith((" seed", "small", "large"))
}
WAYS = FIRST | {
    "aligned with BPE tokens": ("mixture.alignment=pieces", "pretrain.patches.kind=aligned"),
    "two sub-queries": ("pretrain.patches.sub_queries=2", "pretrain.patches.kind=static"),
}


def _documents() -> list[dict[str, Any]]:
    return [
        {
            "id": f"d{index}",
            "split": "heldout" if index % 5 == 4 else "train",
            "text": f"{TEXTS[index % 5]} and {TEXTS[index // 5]}",
            "source": "tiny",
            "licence": LICENCE,
            "may_interleave": True,
            "facts": [],
        }
        for index in range(25)
    ]


def _request(kind: type[R], config: Frozen, made: Mapping[str, ArtifactRef]) -> R:
    """Its references by name, as a pipeline fills them."""
    held = {name: made[name] for name in kind.model_fields if name in made}
    return kind.model_validate({**held, "config": config})


def _run(
    recipe: Recipe, chain: TinyChain, store: MemoryStore, folder: Path
) -> tuple[PretrainResult, EvaluateResult]:
    def work(name: str) -> Workspace:
        (folder / name).mkdir()
        return Workspace(folder / name)

    made = {name: getattr(chain, name) for name in TinyChain.__slots__ if name != "layout"}
    with store.draft(ArtifactKind.TEXT_CORPUS) as draft:
        write_table(draft, "documents", DOCUMENTS, _documents())
        made["text"] = draft.commit(licences=(LICENCE,))
    mixing = _request(MixRequest, recipe.mixture, made)
    made |= mix(mixing, store=store, work=work("mix")).outputs()
    training = _request(PretrainRequest, recipe.pretrain, made)
    trained = pretrain(training, store=store, work=work("pretrain"), engine=PlainEngine)
    made |= trained.outputs()
    speaking = _request(BuildDialoguesRequest, recipe.dialogues, made)
    made |= build_dialogues(speaking, store=store, work=work("dialogues")).outputs()
    tuning = _request(SftRequest, recipe.sft, made)
    made |= sft(tuning, store=store, work=work("sft"), engine=PlainEngine).outputs()
    asking = _request(SpeakTasksRequest, recipe.evaluate.part(SpokenTasksConfig), made)
    made |= speak_tasks(asking, store=store, work=work("tasks")).outputs()
    judging = _request(EvaluateRequest, recipe.evaluate, made)
    return trained, evaluate(judging, store=store, work=work("evaluate"))


@pytest.mark.slow
@pytest.mark.parametrize("label", WAYS)
def test_an_arm_is_trained_fine_tuned_and_evaluated(label: str, tmp_path: Path) -> None:
    store = MemoryStore()
    recipe = load_recipe(SWEEP.recipe, (*WAYS[label], *SHRUNK))

    trained, evaluated = _run(recipe, build_tiny_chain(store), store, tmp_path)

    names = {metric.name for metric in (*trained.metrics, *evaluated.metrics)}
    columns = {name for name in SWEEP.columns if not name.startswith("usage/")}
    wanted = {*SWEEP.numbers, *columns, *SWEEP.curves}
    match recipe.pretrain.patches.kind:
        case "off":
            absent = {name for name in wanted if "patches/" in name}
        case "static":
            absent = {"language_model/patches/unaligned"}
        case _:
            absent = set()
    assert wanted - names == absent
    losses = [one.value for one in trained.metrics if one.name == "train/loss"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_three_ways_have_three_seeds_and_two_have_three_sizes() -> None:
    recipes = [load_recipe(SWEEP.recipe, arm) for arm in SWEEP.arms]
    kinds = [recipe.pretrain.patches.kind for recipe in recipes]
    is_plain = [
        kind == "off" and not recipe.mixture.speech_units
        for kind, recipe in zip(kinds, recipes, strict=True)
    ]
    sizes = {recipe.pretrain.model.hidden_size for recipe in recipes}

    assert len(sizes) == 3
    assert len(FIRST) == 6
    for chosen in (
        is_plain,
        [kind == "static" for kind in kinds],
        [kind == "curriculum" for kind in kinds],
    ):
        own = [recipe for recipe, is_own in zip(recipes, chosen, strict=True) if is_own]
        assert {recipe.pretrain.seed_offset for recipe in own} == {0, 1, 2}
    for chosen in (is_plain, [kind == "static" for kind in kinds]):
        own = [recipe for recipe, is_own in zip(recipes, chosen, strict=True) if is_own]
        assert {recipe.pretrain.model.hidden_size for recipe in own} == sizes
