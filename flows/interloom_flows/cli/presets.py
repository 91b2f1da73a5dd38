"""``preset``: a complete recipe with P1's speech tokenizer in one of its sizes and rates."""

from typing import Annotated

import typer

from interloom_flows.cli import screen


def preset(
    size: Annotated[
        str, typer.Argument(metavar="SIZE", help="Of Whisper: tiny, base, ..., large-v3.")
    ],
    rate_hz: Annotated[
        str, typer.Argument(metavar="HZ", help="Codes a second: 50, 25, 12.5 or 6.25.")
    ] = "12.5",
) -> None:
    """Print a recipe whose speech tokenizer is P1's; save it as a .toml file and run that."""
    from interloom.config.recipe import Recipe, recipe_to_toml
    from interloom.config.speech_tokenizer import p1_tokenizer

    tokenizer = p1_tokenizer(size, rate_hz)
    recipe = Recipe(
        name=f"tokenizer-{size}-{rate_hz}hz",
        description=f"P1's speech tokenizer, Whisper {size} at {rate_hz} Hz",
        tokenizer=tokenizer,
    )
    screen.out().print(recipe_to_toml(recipe), end="", markup=False, soft_wrap=True)
