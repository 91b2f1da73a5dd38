"""What a flow is asked for. Everything else it reads from recipes and settings."""

from interloom.config.base import Frozen
from interloom.config.overrides import nearest
from interloom.config.recipe import Recipe
from interloom.core.errors import ConfigError
from interloom_flows.pipeline import ASIDE, Step, pretraining_steps
from interloom_flows.recipes import load_recipe


class PipelineParameters(Frozen):
    """Which run.

    Attributes:
        recipe: A committed name, or the path of a TOML file.
        overrides: ``section.key=value`` changes to it.
        only: Stop at this stage; None runs all.
        fresh: Stages that run although there is a result to reuse.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    only: str | None = None
    fresh: tuple[str, ...] = ()

    def load(self) -> tuple[Recipe, tuple[Step, ...]]:
        """The recipe and its steps.

        Raises:
            ConfigError: A key, a value or the stage is not known.
            MissingError: There is no such recipe.
        """
        recipe = load_recipe(self.recipe, self.overrides)
        stages = [step.stage for step in (*pretraining_steps(recipe), *ASIDE)]
        for name in (*self.fresh, *([self.only] if self.only is not None else [])):
            if name not in stages:
                raise ConfigError(f"there is no stage {name!r}{nearest(name, stages)}")
        return recipe, pretraining_steps(recipe, self.only)
