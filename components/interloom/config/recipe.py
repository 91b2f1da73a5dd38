"""A recipe: everything that a run of the whole pipeline computes, in one record."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import NonNegativeInt, StringConstraints, ValidationError, model_validator

from interloom.config.base import Frozen
from interloom.config.corpora import IngestConfig
from interloom.config.dialogue import DialogueConfig, SftConfig
from interloom.config.evaluation import EvaluationConfig
from interloom.config.interleaving import InterleavingConfig
from interloom.config.language_model import PretrainConfig
from interloom.config.mixture import MixtureConfig
from interloom.config.overrides import NONE, apply_overrides, explain, with_nulls
from interloom.config.speech_decoder import DecoderConfig
from interloom.config.speech_tokenizer import TokenizerConfig
from interloom.config.text_to_token import TextToTokenConfig
from interloom.core.errors import ConfigError

RecipeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Recipe(Frozen):
    """One complete run: a seed, and a section for each stage that has settings.

    Attributes:
        name: Runs are listed under it.
        description: One sentence: what for, on what machine, how long.
        seed: Every random draw of the run follows from it.
        ingest: The corpora: the starter world, or named data sets of your own.
        tokenizer: Speech tokenizer (stage ``train_tokenizer``).
        decoder: Speech decoder (stage ``train_decoder``).
        text_to_token: Text-to-token model (stage ``train_text_to_token``).
        interleave: Synthetic interleaved data (stage ``interleave``).
        mixture: What the language model reads (stage ``mix``).
        pretrain: The language model (stage ``pretrain``).
        dialogues: Spoken dialogues (stage ``build_dialogues``).
        sft: The chatbot (stage ``sft``).
        evaluate: What is measured (stage ``evaluate``).
    """

    name: RecipeName
    description: str = ""
    seed: NonNegativeInt = 0
    ingest: IngestConfig = IngestConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    decoder: DecoderConfig = DecoderConfig()
    text_to_token: TextToTokenConfig = TextToTokenConfig()
    interleave: InterleavingConfig = InterleavingConfig()
    mixture: MixtureConfig = MixtureConfig()
    pretrain: PretrainConfig = PretrainConfig()
    dialogues: DialogueConfig = DialogueConfig()
    sft: SftConfig = SftConfig()
    evaluate: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _vllm_has_a_base(self) -> Self:
        speaking = {
            "interleave.synthesis": self.interleave.synthesis,
            "dialogues.user": self.dialogues.user,
            "dialogues.assistant": self.dialogues.assistant,
            "evaluate.task_speech": self.evaluate.task_speech,
        }
        for key, synthesis in speaking.items():
            if synthesis.engine == "vllm" and self.text_to_token.base is None:
                raise ValueError(
                    f"{key}.engine = 'vllm' needs a model that begins from a text_to_token.base; "
                    f"name one, or set {key}.engine=torch"
                )
        return self

    @model_validator(mode="after")
    def _the_sections_agree(self) -> Self:
        longest = self.pretrain.model.max_length
        for key, length in (
            ("mixture.row_length", self.mixture.row_length),
            ("sft.row_length", self.sft.row_length),
        ):
            if length > longest:
                raise ValueError(
                    f"{key} must be at most pretrain.model.max_length = {longest}, got {length}"
                )
        if self.pretrain.patches.uses_alignment and self.mixture.alignment == "off":
            raise ValueError(
                f"pretrain.patches.kind = {self.pretrain.patches.kind!r} cuts at words; set "
                "mixture.alignment = 'words', so that the rows know where they begin"
            )
        if self.mixture.speech_units is not None and self.pretrain.patches.kind != "off":
            raise ValueError(
                "mixture.speech_units is for the plain model; set pretrain.patches.kind = 'off', "
                "or leave the units out"
            )
        units, patches = self.mixture.units, self.pretrain.patches
        if units and patches.kind != "off" and units.speech_tokens != patches.size:
            raise ValueError(
                f"mixture.units.speech_tokens must be pretrain.patches.size = {patches.size}, got "
                f"{units.speech_tokens}"
            )
        templates = {self.dialogues.template, self.sft.template, self.evaluate.answer.template}
        if len(templates) > 1:
            raise ValueError(
                "dialogues.template, sft.template and evaluate.answer.template must be the same, "
                f"got {self.dialogues.template}; {self.sft.template}; "
                f"{self.evaluate.answer.template}"
            )
        return self


def recipe_of(
    values: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "recipe"
) -> Recipe:
    """Build a recipe from what a TOML file holds.

    Overrides are laid over the complete recipe, so ``a.b=c`` changes ``b`` and nothing beside it.

    Raises:
        ConfigError: An unknown key (with the nearest ones), or a value out of range.
    """
    recipe = _validated(with_nulls(dict(values)), source)
    if not overrides:
        return recipe
    return _validated(apply_overrides(recipe.model_dump(), overrides, Recipe), source)


def recipe_to_toml(recipe: Recipe) -> str:
    """The complete recipe as TOML: every value of every section, defaults included."""
    body = recipe.model_dump(mode="json")
    top = [f"{key} = {_toml(value)}" for key, value in body.items() if not isinstance(value, dict)]
    tables = [
        line
        for key, value in body.items()
        if isinstance(value, dict)
        for line in _table((key,), value)
    ]
    return "\n".join([*top, *tables]) + "\n"


def _validated(values: Mapping[str, Any], source: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, Recipe)}") from error


def _table(path: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
    """A section, its plain values first, then the sections inside it."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = ["", f"[{'.'.join(path)}]"] if plain or not values else []
    lines += [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _table((*path, key), value)
    return lines


def _toml(value: Any) -> str:
    """A value on one line of TOML. JSON's strings, numbers and booleans are TOML's too."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(held)}' for key, held in value.items())} }}"
    return json.dumps(NONE if value is None else value, ensure_ascii=False)
