"""The texts of the world: stories, and documents that state facts."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from interloom.corpora.world.draws import Draws, hashed_share
from interloom.corpora.world.facts import Fact, Guard, Medium
from interloom.corpora.world.stories import Story, describe, draw_cast, tell

SOURCE = "starter-world"
LICENCE = "CC0-1.0"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """What is so, and which stories no document may tell.

    Attributes:
        seed: From which everything follows.
        facts: All of them.
        cloze: The stories that are kept for cloze pairs.
        heldout_share: Part of the rows that is held out.
        has_unseen_voices: Half of the held-out utterances are by speakers who say nothing else.
        has_phrases: Utterances put describing words before nouns, none of them an answer.
    """

    seed: int
    facts: tuple[Fact, ...]
    cloze: tuple[Story, ...]
    heldout_share: float
    has_unseen_voices: bool = False
    has_phrases: bool = False

    def facts_of(self, medium: Medium) -> tuple[Fact, ...]:
        """The facts that this medium states."""
        return tuple(fact for fact in self.facts if fact.medium == medium)

    def guard(self, *media: Medium) -> Guard:
        """What keeps the facts of other media out."""
        return Guard(self.facts, media)

    def split(self, text: str, *, times: int = 1) -> str:
        """The split of a text, by its hash; ``times`` the share of the texts is held out."""
        is_heldout = hashed_share(text, self.seed) < times * self.heldout_share
        return "heldout" if is_heldout else "train"


def build_cloze_stories(seed: int, facts: Sequence[Fact], count: int) -> tuple[Story, ...]:
    """Different stories that touch no fact, so that they may be told in any medium."""
    guard = Guard(facts, ())
    stories: dict[tuple[str, ...], Story] = {}
    attempt = 0
    while len(stories) < count:
        draws = Draws(seed, "cloze", attempt)
        story = tell(draw_cast(draws), draws)
        if guard.passes(f"{story.text} {story.wrong}"):
            stories.setdefault(story.context, story)
        attempt += 1
    return tuple(stories.values())


def story_documents(world: World, count: int) -> Iterator[Row]:
    """Documents of one or two stories, for interleaving. None tells a story of the cloze pairs."""
    guard = world.guard("woven")
    kept = {story.context for story in world.cloze}
    for index in range(count):
        text = _accepted_story(world.seed, index, guard, kept)
        yield _row(f"story-{index:05d}", world.split(text), text, may_interleave=True)


def _accepted_story(seed: int, index: int, guard: Guard, kept: Collection[tuple[str, ...]]) -> str:
    """The first drawn text that may be used."""
    attempt = 0
    while True:
        draws = Draws(seed, "story", index, attempt)
        cast = draw_cast(draws)
        stories = [tell(cast, draws) for _ in range(1 + draws.below(2))]
        text = " ".join(story.text for story in stories)
        if guard.passes(text) and not any(story.context in kept for story in stories):
            return text
        attempt += 1


def fact_documents(world: World, medium: Medium, count: int) -> Iterator[Row]:
    """Documents that state facts of a medium, each fact equally often; all are for training."""
    guard = world.guard(medium)
    facts = world.facts_of(medium)
    for index in range(count):
        told, text = _accepted_facts(world.seed, index, facts, guard)
        row = _row(f"{medium}-{index:05d}", "train", text, may_interleave=medium == "woven")
        yield {**row, "facts": sorted(fact.id for fact in told)}


def _accepted_facts(
    seed: int, index: int, facts: Sequence[Fact], guard: Guard
) -> tuple[list[Fact], str]:
    """Some facts and the first drawn text about them that may be used.

    The first fact takes its turn; the others are drawn.
    """
    attempt = 0
    while True:
        draws = Draws(seed, "facts", facts[0].medium, index, attempt)
        first = facts[index % len(facts)]
        others = [fact for fact in draws.sample(facts, 3) if fact != first]
        told = draws.shuffled([first, *others[: 1 + draws.below(2)]])
        text = " ".join(_passage(told, draws))
        if guard.passes(text):
            return told, text
        attempt += 1


def _passage(facts: Iterable[Fact], draws: Draws) -> Iterator[str]:
    """Sentences about each fact in turn, with a question or something beside the point."""
    for fact in facts:
        match draws.below(4):
            case 0 | 1:
                yield fact.question(draws.below(len(fact.relation.questions)))
            case 2:
                yield describe(draws)
            case _:
                pass
        ways = range(len(fact.relation.statements))
        for way in draws.sample(ways, 1 + draws.below(2)):
            yield fact.statement(way)


def _row(row_id: str, split: str, text: str, *, may_interleave: bool) -> Row:
    """A row of ``documents`` without facts."""
    return {
        "id": row_id,
        "split": split,
        "text": text,
        "source": SOURCE,
        "licence": LICENCE,
        "may_interleave": may_interleave,
        "facts": [],
    }
