"""``python -m interloom_flows.recipes``: write new settings into every committed recipe."""

from interloom.config.recipe import recipe_to_toml
from interloom_flows.recipes import FOLDER, load_recipe, recipe_names

if __name__ == "__main__":
    for name in recipe_names():
        (FOLDER / f"{name}.toml").write_text(recipe_to_toml(load_recipe(name)), encoding="utf-8")
