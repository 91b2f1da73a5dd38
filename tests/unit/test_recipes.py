"""Recipes: committed files, overrides, and what is said of mistakes."""

import tomllib
from pathlib import Path

import pytest

from interloom.config.overrides import apply_overrides, nearest, parse_assignment
from interloom.config.recipe import Recipe, recipe_of, recipe_to_toml
from interloom.core.errors import ConfigError, MissingError
from interloom_flows.recipes import FOLDER, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_committed_recipe_loads_and_is_called_after_its_file(name: str) -> None:
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", recipe_names())
def test_every_committed_recipe_is_complete(name: str) -> None:
    written = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")

    values = tomllib.loads(written)

    assert values == tomllib.loads(recipe_to_toml(load_recipe(name)))


def test_a_recipe_survives_being_written_and_read() -> None:
    recipe = recipe_of({"name": "mine"}, ["decoder.voice=anna", "mixture.speech=none"])

    again = recipe_of(tomllib.loads(recipe_to_toml(recipe)))

    assert again == recipe
    assert again.mixture.speech is None


def test_an_override_changes_its_key_and_nothing_beside_it() -> None:
    before = load_recipe("starter").model_dump()

    after = load_recipe("starter", ["pretrain.train.gradient_clip=0.75"]).model_dump()

    before["pretrain"]["train"]["gradient_clip"] = 0.75
    assert after == before


def test_another_kind_starts_from_an_empty_section() -> None:
    changed = apply_overrides(
        {"source": {"kind": "starter", "num_stories": 3}},
        ["source.kind=catalog", 'source.speech="mine"'],
    )

    assert changed == {"source": {"kind": "catalog", "speech": "mine"}}


def test_overrides_leave_what_they_were_given_alone() -> None:
    values = {"a": {"b": 1}}

    apply_overrides(values, ["a.b=2"])

    assert values == {"a": {"b": 1}}


def test_another_kind_of_the_same_record_keeps_its_other_keys() -> None:
    changes = ["pretrain.patches.local_size=64", "pretrain.patches.kind=static"]

    patches = load_recipe("starter", changes).pretrain.patches

    assert (patches.kind, patches.local_size) == ("static", 64)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b=0.25", 0.25),
        ("a.b=true", True),
        ('a.b="x y"', "x y"),
        ("a.b=cosine", "cosine"),
        ("a.b=none", None),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=smoke/readmit.interleaved@2", "smoke/readmit.interleaved@2"),
        ("a.b=text_tokenizer:0f3a", "text_tokenizer:0f3a"),
    ],
)
def test_values_are_toml_and_bare_words_are_strings(text: str, value: object) -> None:
    assert parse_assignment(text) == (("a", "b"), value)


@pytest.mark.parametrize("text", ["a.b", "=3", "a..b=3", "a.b="])
def test_an_assignment_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--set needs section.key=value, got .*for example"):
        parse_assignment(text)


def test_a_value_that_is_not_toml_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a TOML value; numbers and true/false go bare"):
        parse_assignment("a.b=[1, 2")


def test_a_key_through_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="'seed' is a value, not a section; shorten the key"):
        load_recipe("starter", ["seed.x=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretran.x=1", "unknown key pretran; did you mean pretrain?"),
        ("pretrain.model.hiden_size=3", "unknown key pretrain.model.hiden_size; did you mean hid"),
        ("mixture.text.budget.shar=0.2", "unknown key mixture.text.budget.shar; did you mean sha"),
        ("mixture.text.budget.share=2", "mixture.text.budget.share: input should be less than or"),
        ("seed=x", "seed: input should be a valid integer"),
        ("mixture.row_length=10000", "mixture.row_length must be at most pretrain.model.max_leng"),
        ("sft.template.text_chunk=3", "sft.template and evaluate.answer.template must be the same"),
    ],
)
def test_a_mistake_is_named_with_what_is_near(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("starter", [override])

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(MissingError, match=r"'startr' is not known; did you mean starter\?"):
        load_recipe("startr")


def test_a_path_that_is_not_there_is_named() -> None:
    with pytest.raises(MissingError, match=r"recipe nowhere/mine.toml: there is no such file"):
        load_recipe("nowhere/mine.toml")


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = = 3")

    with pytest.raises(ConfigError, match="not a TOML file"):
        load_recipe(str(path))


def test_a_recipe_of_ones_own_is_called_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\n")

    assert load_recipe(str(path)) == Recipe(name="mine", seed=3)


def test_nothing_near_lists_all() -> None:
    assert nearest("zzz", ["mix", "sft"]) == "; there are: mix, sft"
