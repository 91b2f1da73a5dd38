"""The pipeline as a graph: which stage reads what which other stage made. Pure.

::

    ingest > train_tokenizer > tokenize_speech > train_text_to_token > interleave > mix > pretrain
                                      |                  |                                   |
                                      |                  +--------> build_dialogues -------> sft
                                      |                  |                                   |
                                      |                  +--------> speak_tasks --------> evaluate
                                      |                                                      |
                                      +--> train_decoder ------------------------------------+
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from interloom.config.base import Frozen
from interloom.config.recipe import Recipe
from interloom.core.artifacts import ArtifactRef
from interloom.stages.build_dialogues import BuildDialoguesRequest
from interloom.stages.evaluate import EvaluateRequest
from interloom.stages.evaluate_tokenizer import EvaluateTokenizerRequest
from interloom.stages.ingest import IngestRequest
from interloom.stages.interleave import InterleaveRequest
from interloom.stages.mix import MixRequest
from interloom.stages.pretrain import PretrainRequest
from interloom.stages.result import StageRequest, StageResult, train_section
from interloom.stages.sft import SftRequest
from interloom.stages.speak_tasks import SpeakTasksRequest
from interloom.stages.tokenize_speech import TokenizeSpeechRequest
from interloom.stages.train_decoder import TrainDecoderRequest
from interloom.stages.train_text_to_token import TrainTextToTokenRequest
from interloom.stages.train_tokenizer import TrainTokenizerRequest

_LATER = frozenset({"start", "interleaved"})  # named things that the first stage does not read


@dataclass(frozen=True, slots=True)
class Inputs:
    """What requests are built from, beside the recipe.

    Attributes:
        results: What each stage made, by the stage's name.
        named: What the recipe names: ``speech``, ``text`` and ``dialogues`` of one's own, for
            ``ingest``; ``interleaved``, rows that are there already, for ``mix``; ``start``, a
            model, for ``pretrain``.
        blocked: What was taken down, for ``ingest``.
    """

    results: Mapping[str, StageResult] = field(default_factory=lambda: MappingProxyType({}))
    named: Mapping[str, ArtifactRef] = field(default_factory=lambda: MappingProxyType({}))
    blocked: tuple[str, ...] = ()

    def with_result(self, stage: str, result: StageResult) -> "Inputs":
        """These, and what one more stage made."""
        return replace(self, results={**self.results, stage: result})


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a pipeline.

    Attributes:
        stage: Its name, as the registry of stages knows it; a pipeline runs a stage once.
        request_type: Its fields of type ``ArtifactRef`` are filled by name from what the steps in
            ``after`` made.
        section: The section of the recipe that holds its settings, or None.
        title: What it does, in plain words.
        after: The steps whose results its request needs.
        num_threads: Of a stage that trains nothing; one that trains has them in its settings.
    """

    stage: str
    request_type: type[StageRequest]
    section: str | None
    title: str
    after: tuple[str, ...] = ()
    num_threads: int = 2

    def num_ranks(self, recipe: Recipe) -> int:
        """Processes that run it together."""
        train = train_section(getattr(recipe, self.section)) if self.section else None
        return train.num_ranks if train else 1

    def settings(self, recipe: Recipe) -> Frozen | None:
        """Its section of the recipe; of one that others read too, what its request takes."""
        if self.section is None:
            return None
        held: Frozen = getattr(recipe, self.section)
        taken: Any = self.request_type.model_fields["config"].annotation
        return held if type(held) is taken else held.part(taken)

    def request(self, recipe: Recipe, inputs: Inputs) -> StageRequest:
        """All that this stage's result depends on.

        Args:
            recipe: Gives settings and seed.
            inputs: Holds at least the results of the steps in ``after``.
        """
        made = {name: ref for name, ref in inputs.named.items() if name in _LATER or not self.after}
        for name in self.after:
            made |= inputs.results[name].outputs()
        fields = self.request_type.model_fields
        values: dict[str, object] = {name: made[name] for name in fields if name in made}
        if "blocked" in fields:
            values["blocked"] = inputs.blocked
        if self.section is not None:
            values["config"] = self.settings(recipe)
        return self.request_type.model_validate(values | {"seed": recipe.seed})


ASIDE = (
    Step(
        "evaluate_tokenizer",
        EvaluateTokenizerRequest,
        "evaluate",
        "measure the speech tokenizer on held-out speech",
        ("ingest", "train_tokenizer"),
    ),
)
"""Stages that run only when they are asked for."""


def pretraining_steps(recipe: Recipe, only: str | None = None) -> tuple[Step, ...]:
    """From recordings and text to an evaluated chatbot, in topological order.

    Args:
        recipe: A mixture without interleaved data has no ``interleave`` step, nor has a recipe that
            names its rows.
        only: Stop at this stage: only it and what it needs. It may be one of ``ASIDE``.

    Raises:
        KeyError: There is no stage ``only``.
    """
    steps = {step.stage: step for step in (*_data_steps(recipe), *_model_steps(recipe))}
    if only is None:
        return tuple(steps.values())
    steps |= {step.stage: step for step in ASIDE}
    needed, open_names = set[str](), [only]
    while open_names:
        name = open_names.pop()
        needed.add(name)
        open_names.extend(steps[name].after)
    return tuple(step for step in steps.values() if step.stage in needed)


def _data_steps(recipe: Recipe) -> list[Step]:
    """Up to the packed rows."""
    corpora, tokens = (
        ("ingest", "train_tokenizer"),
        ("ingest", "train_tokenizer", "tokenize_speech"),
    )
    speaking = (*corpora, "train_text_to_token")
    weaving = Step(
        "interleave",
        InterleaveRequest,
        "interleave",
        "speak spans of the text and weave them in",
        (*tokens, "train_text_to_token"),
    )
    is_made = recipe.mixture.interleaved is not None and recipe.interleave.rows is None
    woven = [weaving] if is_made else []
    return [
        Step("ingest", IngestRequest, "ingest", "build or read the corpora"),
        Step(
            "train_tokenizer",
            TrainTokenizerRequest,
            "tokenizer",
            "learn to write speech as tokens",
            ("ingest",),
        ),
        Step("tokenize_speech", TokenizeSpeechRequest, None, "write all speech as tokens", corpora),
        Step(
            "train_text_to_token",
            TrainTextToTokenRequest,
            "text_to_token",
            "learn to speak text in tokens",
            tokens,
        ),
        Step(
            "train_decoder",
            TrainDecoderRequest,
            "decoder",
            "learn to turn tokens into sound",
            ("ingest", "tokenize_speech"),
        ),
        *woven,
        Step(
            "build_dialogues",
            BuildDialoguesRequest,
            "dialogues",
            "speak the dialogues",
            speaking,
        ),
        Step("speak_tasks", SpeakTasksRequest, "evaluate", "speak the tasks", speaking),
        Step(
            "mix",
            MixRequest,
            "mixture",
            "mix the sources and pack rows",
            (*tokens, *(step.stage for step in woven)),
        ),
    ]


def _model_steps(recipe: Recipe) -> list[Step]:
    """From the packed rows on."""
    heard = ("tokenize_speech",) if recipe.sft.copies.utterances else ()
    return [
        Step("pretrain", PretrainRequest, "pretrain", "train the language model", ("mix",)),
        Step(
            "sft",
            SftRequest,
            "sft",
            "make the chatbot out of it",
            ("pretrain", "build_dialogues", *heard),
        ),
        Step(
            "evaluate",
            EvaluateRequest,
            "evaluate",
            "measure everything on held-out data",
            (
                "ingest",
                "train_tokenizer",
                "tokenize_speech",
                "train_text_to_token",
                "train_decoder",
                "speak_tasks",
                "pretrain",
                "sft",
            ),
        ),
    ]
