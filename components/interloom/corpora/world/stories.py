"""Stories whose ending follows from what comes before, by a rule.

A rule maps each of several cases to its ending. The wrong endings of a story are the right ones of
other cases of the same rule, so that none is likelier by itself.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from interloom.corpora.world.draws import Draws
from interloom.corpora.world.lexicon import (
    ANIMALS,
    COLOURS,
    FOODS,
    PEOPLE,
    PLACES,
    SIZES,
    TASTES,
    THINGS,
)

STATES = {
    "hungry": "so {p} eats some bread.",
    "thirsty": "so {p} drinks some water.",
    "tired": "so {p} sleeps in bed.",
    "happy": "so {p} sings a song.",
    "sad": "so {p} cries.",
    "dirty": "so {p} takes a bath.",
}
WEATHER = {"rain": "wet", "sun": "hot", "snow": "cold"}
HABITS = {
    "lake": "swims",
    "school": "reads a book",
    "shop": "buys a gift",
    "park": "plays a game",
    "forest": "cuts wood",
    "church": "sings a song",
}
DIETS = {
    "cat": "fish",
    "dog": "meat",
    "horse": "hay",
    "bear": "honey",
    "mouse": "cheese",
    "goat": "grass",
}
HOURS = {"day": "sun", "night": "moon"}


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part in a story, first and second."""

    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Plot:
    """The part of a story that the rule governs; see ``Story``."""

    premise: tuple[str, ...]
    right: str
    every_wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """Sentences, the ending that follows and those that break the rule.

    Attributes:
        rule: Which rule governs it.
        context: Its sentences but the last.
        right: The last sentence.
        every_wrong: What would break the rule: the endings of all its other cases, first the one
            that was drawn.
    """

    rule: str
    context: tuple[str, ...]
    right: str
    every_wrong: tuple[str, ...]

    @property
    def wrong(self) -> str:
        """The ending that was drawn to break the rule."""
        return self.every_wrong[0]

    @property
    def text(self) -> str:
        """The whole story as it is told."""
        return " ".join((*self.context, self.right))


def _state(cast: Cast, draws: Draws) -> Plot:
    """What one is, one acts on."""
    state, other = draws.sample(list(STATES), 2)
    return Plot(
        (f"{cast.first} is {state}.",),
        STATES[state].format(p=cast.first),
        tuple(STATES[one].format(p=cast.first) for one in _wrong(STATES, state, other)),
    )


def _weather(cast: Cast, draws: Draws) -> Plot:
    """Rain makes wet, sun hot and snow cold."""
    now, other = draws.sample(list(WEATHER), 2)
    return Plot(
        (f"{cast.first} is out in the {now}.",),
        f"now {cast.first} is {WEATHER[now]}.",
        tuple(f"now {cast.first} is {WEATHER[one]}." for one in _wrong(WEATHER, now, other)),
    )


def _gift(cast: Cast, draws: Draws) -> Plot:
    """Who is given a thing has it."""
    thing = draws.pick(THINGS)
    return Plot(
        (f"{cast.first} has a {thing}.", f"{cast.first} gives the {thing} to {cast.second}."),
        f"now {cast.second} has the {thing}.",
        (f"now {cast.first} has the {thing}.",),
    )


def _loss(cast: Cast, draws: Draws) -> Plot:
    """A thing is found where it was lost."""
    thing = draws.pick(THINGS)
    place, other = draws.sample(PLACES, 2)
    return Plot(
        (f"{cast.first} lost a {thing} at the {place}.",),
        f"{cast.second} finds it at the {place}.",
        tuple(f"{cast.second} finds it at the {one}." for one in _wrong(PLACES, place, other)),
    )


def _habit(cast: Cast, draws: Draws) -> Plot:
    """Each place has its habit."""
    place, other = draws.sample(list(HABITS), 2)
    return Plot(
        (f"{cast.first} goes to the {place}.",),
        f"there {cast.first} {HABITS[place]}.",
        tuple(f"there {cast.first} {HABITS[one]}." for one in _wrong(HABITS, place, other)),
    )


def _diet(cast: Cast, draws: Draws) -> Plot:
    """Each animal eats one food."""
    animal, other = draws.sample(list(DIETS), 2)
    return Plot(
        (f"a {animal} comes to {cast.first}.", "it wants to eat."),
        f"{cast.first} gives it some {DIETS[animal]}.",
        tuple(f"{cast.first} gives it some {DIETS[one]}." for one in _wrong(DIETS, animal, other)),
    )


def _hour(cast: Cast, draws: Draws) -> Plot:
    """The sun is up by day, the moon by night."""
    hour, other = draws.sample(list(HOURS), 2)
    return Plot(
        (f"it is {hour}.",),
        f"{cast.first} sees the {HOURS[hour]}.",
        (f"{cast.first} sees the {HOURS[other]}.",),
    )


def _wrong(cases: Iterable[str], right: str, drawn: str) -> tuple[str, ...]:
    """All cases but the right one, first the one that was drawn."""
    return (drawn, *(one for one in cases if one not in {right, drawn}))


RULES: dict[str, Callable[[Cast, Draws], Plot]] = {
    "state": _state,
    "weather": _weather,
    "gift": _gift,
    "loss": _loss,
    "habit": _habit,
    "diet": _diet,
    "hour": _hour,
}


def tell(cast: Cast, draws: Draws) -> Story:
    """Draw a rule and tell a story by it, with an opening and something beside the point."""
    rule = draws.pick(list(RULES))
    plot = RULES[rule](cast, draws)
    opening = _opening(cast, draws)
    aside = (_aside(draws),) if draws.below(2) else ()
    return Story(rule, (*opening, *aside, *plot.premise), plot.right, plot.every_wrong)


def draw_cast(draws: Draws) -> Cast:
    """Two people."""
    first, second = draws.sample(PEOPLE, 2)
    return Cast(first, second)


def _opening(cast: Cast, draws: Draws) -> tuple[str, ...]:
    """Who it is about."""
    return draws.pick(
        (
            (f"this is {cast.first}.",),
            (f"one day {cast.first} is with {cast.second}.",),
            (f"{cast.first} and {cast.second} are at home.",),
            (f"{cast.second} likes {cast.first}.", f"{cast.first} likes {cast.second}."),
        )
    )


def _aside(draws: Draws) -> str:
    """Something that has no consequence."""
    return draws.pick(
        (
            "the day is good.",
            "the song is long.",
            describe(draws),
        )
    )


def describe(draws: Draws) -> str:
    """Say of something how it is; names nobody, and never puts the word before the noun."""
    describing, nouns = draws.pick(
        ((COLOURS, ANIMALS), (SIZES, PLACES), (TASTES, FOODS), (COLOURS, THINGS))
    )
    verb = "are" if (noun := draws.pick(nouns)) in {"beans", "nuts", "plums"} else "is"
    return f"the {noun} {verb} {draws.pick(describing)}."
