"""Questions and answers about the world, as dialogues and as tasks.

Written facts are in no dialogue: what the chatbot says of them, it has only read. Held-out
dialogues ask about the facts in words that no dialogue for training uses.
"""

from collections.abc import Iterator
from itertools import count

from interloom.corpora.world.documents import LICENCE, SOURCE, Row, World
from interloom.corpora.world.draws import Draws
from interloom.corpora.world.facts import MEDIA, Fact
from interloom.corpora.world.lexicon import PEOPLE, PLACES, THINGS
from interloom.corpora.world.stories import DIETS, HABITS, STATES, WEATHER

Exchange = tuple[str, str]


def dialogues(world: World, number: int) -> Iterator[Row]:
    """Dialogues of one or two questions with answers of at most ten words, some of them held out.

    A few may hold out none; then there are more, up to the first.
    """
    guard = world.guard("woven", "spoken")
    is_any_heldout = False
    for index in count():
        if index >= number and is_any_heldout:
            return
        attempt = 0
        while True:
            split, turns = _draw(world, Draws(world.seed, "dialogue", index, attempt))
            if guard.passes(" ".join(text for turn in turns for text in turn)):
                break
            attempt += 1
        is_any_heldout |= split == "heldout"
        yield {
            "id": f"dialogue-{index:05d}",
            "split": split,
            "turns": [
                {"role": role, "text": text}
                for turn in turns
                for role, text in zip(("user", "assistant"), turn, strict=True)
            ],
            "source": SOURCE,
            "licence": LICENCE,
        }


def _draw(world: World, draws: Draws) -> tuple[str, list[Exchange]]:
    """A split and its questions; held-out ones paraphrase or tell of other people and things."""
    turns: list[Exchange] = []
    is_heldout = draws.below(1000) < 1000 * world.heldout_share
    known = (*world.facts_of("woven"), *world.facts_of("spoken"))
    while len(turns) < 1 or (len(turns) == 1 and draws.below(4) == 0):
        if draws.below(5) < 3:
            turns.append(ask_fact(draws.pick(known), draws, paraphrased=is_heldout))
        elif (world.split((turn := ask_rule(draws))[0]) == "heldout") == is_heldout:
            turns.append(turn)
    return ("heldout" if is_heldout else "train"), turns


def ask_fact(fact: Fact, draws: Draws, *, paraphrased: bool) -> Exchange:
    """Ask about a fact; the last way to ask is the paraphrase of the others."""
    ways = len(fact.relation.questions)
    question = fact.question(ways - 1 if paraphrased else draws.below(ways - 1))
    return question, draws.pick((fact.statement(0), fact.short_answer))


def ask_rule(draws: Draws) -> Exchange:
    """Tell what is so and ask what follows by a rule of the stories."""
    first, second = draws.sample(PEOPLE, 2)
    thing, place = draws.pick(THINGS), draws.pick(PLACES)
    state, now = draws.pick(list(STATES)), draws.pick(list(WEATHER))
    animal, spot = draws.pick(list(DIETS)), draws.pick(list(HABITS))
    options: tuple[Exchange, ...] = (
        (
            f"{first} is {state}. what now?",
            STATES[state].format(p=first),
        ),
        (f"{first} is out in the {now}. what now?", f"now {first} is {WEATHER[now]}."),
        (
            f"{first} gives the {thing} to {second}. who has the {thing}?",
            f"now {second} has the {thing}.",
        ),
        (
            f"{first} lost a {thing} at the {place}. where is it?",
            f"it is at the {place}.",
        ),
        (f"{first} is at the {spot}. what now?", f"there {first} {HABITS[spot]}."),
        (
            f"a {animal} comes to {first}. what does it eat?",
            f"{first} gives it some {DIETS[animal]}.",
        ),
    )
    return draws.pick(options)


def cloze(world: World, *, per_fact: int = 4) -> Iterator[Row]:
    """Pairs of endings: of stories, and of the facts of each medium."""
    for index, story in enumerate(world.cloze):
        yield _pair(
            f"story-{index:04d}", "story", " ".join(story.context), story.right, story.wrong
        )
    for medium in MEDIA:
        for fact in world.facts_of(medium):
            yield from _fact_pairs(world, fact, per_fact)


def endings(world: World, *, num_wrong: int = 3) -> Iterator[Row]:
    """The stories whose rule has as many wrong endings; the first is that of their pair."""
    guard = world.guard()
    for index, story in enumerate(world.cloze):
        context = " ".join(story.context)
        others = [one for one in story.every_wrong[1:] if guard.passes(f"{context} {one}")]
        if len(others) >= num_wrong - 1:
            drawn = Draws(world.seed, "endings", index).sample(others, num_wrong - 1)
            yield {
                "id": f"story-{index:04d}",
                "split": "heldout",
                "context": context,
                "right": story.right,
                "wrong": [story.wrong, *drawn],
            }


def _fact_pairs(world: World, fact: Fact, number: int) -> Iterator[Row]:
    """A statement up to its answer, then the answer or that of another person, same medium.

    No ending names the person: without the context, one is as good as the other.
    """
    others = [
        other
        for other in world.facts_of(fact.medium)
        if other.relation == fact.relation
        and not set(other.answer.split()) & set(fact.answer.split())
    ]
    draws = Draws(world.seed, "pairs", fact.id)
    for index, way in enumerate(draws.sample(range(len(fact.relation.statements)), number)):
        context, _, rest = fact.statement(way).partition(fact.answer)
        wrong = draws.pick(others).answer + rest
        yield _pair(f"{fact.id}-{index}", fact.medium, context.rstrip(), fact.answer + rest, wrong)


def _pair(row_id: str, group: str, context: str, right: str, wrong: str) -> Row:
    """A row of ``cloze``."""
    return {
        "id": row_id,
        "split": "heldout",
        "group": group,
        "context": context,
        "right": right,
        "wrong": wrong,
    }


def questions(world: World) -> Iterator[Row]:
    """One question for each fact, in the words that only held-out dialogues use."""
    for fact in world.facts:
        yield {
            "id": fact.id,
            "split": "heldout",
            "group": fact.medium,
            "question": fact.question(len(fact.relation.questions) - 1),
            "answers": [fact.answer],
        }
