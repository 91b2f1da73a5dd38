"""Committed recipes: one TOML file a complete run, no inheritance."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from interloom.config.overrides import nearest
from interloom.config.recipe import Recipe, recipe_of
from interloom.core.errors import ConfigError, MissingError

FOLDER = Path(__file__).parent


def recipe_names() -> tuple[str, ...]:
    """The names of the committed recipes, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and change it.

    Args:
        name_or_path: A committed name, or the path of a TOML file (it ends in ``.toml``).
        overrides: ``section.key=value`` assignments.

    Returns:
        A complete, validated recipe; without ``name`` in its file it is called after the file.

    Raises:
        ConfigError: The file is not TOML, a key is unknown, or a value is out of range.
        MissingError: There is no such recipe.
    """
    path = _path(name_or_path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: not a TOML file: {error}") from error
    except OSError as error:
        raise MissingError(f"recipe {path}: cannot be read: {error.strerror}") from error
    return recipe_of({"name": path.stem} | values, overrides, source=f"recipe {name_or_path}")


def _path(name_or_path: str) -> Path:
    """Where the recipe's file is.

    Raises:
        MissingError: Nowhere.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise MissingError(f"recipe {name_or_path}: there is no such file")
        return path
    if name_or_path not in recipe_names():
        raise MissingError(
            f"recipe {name_or_path!r} is not known{nearest(name_or_path, recipe_names())} "
            "A recipe of your own is named by the path of its .toml file."
        )
    return FOLDER / f"{name_or_path}.toml"
