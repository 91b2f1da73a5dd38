"""Committed sweeps: one TOML file a comparison, with the arms that it is made of."""

import tomllib
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from interloom.config.base import Frozen
from interloom.config.overrides import nearest
from interloom.core.errors import ConfigError, MissingError

FOLDER = Path(__file__).parent


class Sweep(Frozen):
    """Runs of one recipe that differ in a few values.

    Attributes:
        recipe: A committed recipe, or the path of a TOML file.
        description: What is compared, and why.
        arms: For each run the values that it changes, ``key=value`` as ``--set`` takes them.
        numbers: What the table and the plot show: names of results, or what they begin with.
        columns: Results that the table alone shows, beside those.
        curves: Of the language model's training: the table has them where each arm had read what
            the first one read in all, and each is plotted over operations.
        labels: What the arms are called, in their order; none names them by what they change.
        only: The stage at which each arm stops; it may be one that runs only when asked for.
    """

    recipe: str
    description: str = ""
    arms: tuple[tuple[str, ...], ...] = Field(min_length=1)
    numbers: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    only: str | None = None

    @model_validator(mode="after")
    def _every_arm_has_its_label(self) -> Self:
        if self.labels and len(self.labels) != len(self.arms):
            raise ValueError(f"{len(self.arms)} arms need as many labels, got {len(self.labels)}")
        return self


def sweep_names() -> tuple[str, ...]:
    """The names of the committed sweeps, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_sweep(name: str) -> Sweep:
    """Read a committed sweep.

    Raises:
        ConfigError: The file is not a sweep.
        MissingError: There is none of this name.
    """
    if name not in sweep_names():
        raise MissingError(
            f"there is no committed sweep {name!r}{nearest(name, sweep_names())} "
            "For a recipe, name what varies: interloom sweep RECIPE --grid key=a,b,c"
        )
    path = FOLDER / f"{name}.toml"
    try:
        return Sweep.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"sweep {path}: {error}") from error
