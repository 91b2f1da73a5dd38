"""The facts of the world, and the only sentences that state them.

Each person has one pet, home, food and thing; what it is takes two words, such as ``red fox``. A
fact belongs to one of three media, and is stated nowhere else:

- *written*: in documents that are never interleaved,
- *woven*: in documents that may be interleaved,
- *spoken*: in recorded utterances.

Two guards keep a fact from leaking out of its medium. First, its two-word answer is nobody else's,
and no other sentence puts these words one before the other, so that the answer of a written fact is
in no speech at all. Second, no document or utterance of another medium that names the person has
either word of the answer in it. The single words must be spoken, of other people and things: a
recogniser that never heard ``fox`` could not read it back, and transfer could not be measured.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

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
    words_of,
)

Medium = Literal["written", "woven", "spoken"]
MEDIA: tuple[Medium, ...] = ("written", "woven", "spoken")


@dataclass(frozen=True, slots=True)
class Relation:
    """What can be true of a person.

    Attributes:
        name: As in the ids of facts.
        describing: First words of answers.
        nouns: Second words of answers.
        statements: Sentences with ``{p}``, the person, and ``{a}``, the answer.
        questions: Ways to ask; the last is kept for held-out dialogues.
        short: The answer alone as a sentence.
    """

    name: str
    describing: tuple[str, ...]
    nouns: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    short: str


RELATIONS = (
    Relation(
        "pet",
        COLOURS,
        ANIMALS,
        (
            "the pet of {p} is a {a}.",
            "{p} has a {a} at home.",
            "every day {p} feeds a {a}.",
            "{p} plays with a {a}.",
        ),
        ("what is the pet of {p}?", "tell me the pet of {p}.", "what does {p} feed?"),
        "a {a}.",
    ),
    Relation(
        "home",
        SIZES,
        PLACES,
        (
            "the home of {p} is by the {a}.",
            "{p} lives by the {a}.",
            "you can find {p} at the {a}.",
            "at night {p} goes to the {a}.",
        ),
        ("where is the home of {p}?", "tell me the home of {p}.", "where does {p} live?"),
        "by the {a}.",
    ),
    Relation(
        "food",
        TASTES,
        FOODS,
        (
            "the best food of {p} is {a}.",
            "{p} likes to eat {a}.",
            "every day {p} eats {a}.",
            "{p} wants some {a}.",
        ),
        ("what is the best food of {p}?", "tell me the best food of {p}.", "what does {p} eat?"),
        "some {a}.",
    ),
    Relation(
        "thing",
        COLOURS,
        THINGS,
        (
            "the thing of {p} is a {a}.",
            "{p} owns a {a}.",
            "{p} keeps a {a} in a box.",
            "the gift for {p} is a {a}.",
        ),
        ("what is the thing of {p}?", "tell me the thing of {p}.", "what does {p} own?"),
        "a {a}.",
    ),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is so.

    Attributes:
        id: ``PERSON-RELATION``.
        medium: Where it is stated, and nowhere else.
        person: Of whom.
        relation: What.
        answer: Two words.
    """

    id: str
    medium: Medium
    person: str
    relation: Relation
    answer: str

    def statement(self, index: int) -> str:
        """One of its sentences."""
        return self.relation.statements[index].format(p=self.person, a=self.answer)

    def question(self, index: int) -> str:
        """One of the questions that it answers."""
        return self.relation.questions[index].format(p=self.person)

    @property
    def short_answer(self) -> str:
        """The answer as a sentence."""
        return self.relation.short.format(a=self.answer)


def other_answer(facts: Iterable[Fact], draws: Draws) -> str:
    """Two words that might be an answer and are nobody's, as a sentence: ``a white goat.``, say."""
    answers = {fact.answer for fact in facts}
    while True:
        relation = draws.pick(RELATIONS)
        answer = f"{draws.pick(relation.describing)} {draws.pick(relation.nouns)}"
        if answer not in answers:
            return relation.short.format(a=answer)


def build_facts(
    seed: int, *, num_people: int = len(PEOPLE), num_relations: int = len(RELATIONS)
) -> tuple[Fact, ...]:
    """All facts of the world of this seed, ordered by id; each medium has a third of each relation.

    No two people share an answer, and no person's answers share a word.

    Args:
        seed: Of the draws.
        num_people: Facts are about so many of the people; the others only stand in stories.
        num_relations: Each of them has so many facts.
    """
    known = PEOPLE[:num_people]
    taken: dict[str, set[str]] = {person: set() for person in known}
    facts: list[Fact] = []
    for relation in RELATIONS[:num_relations]:
        answers = _answers(seed, relation, taken)
        people = Draws(seed, "media", relation.name).shuffled(known)
        for place, person in enumerate(people):
            facts.append(
                Fact(
                    id=f"{person}-{relation.name}",
                    medium=MEDIA[place % len(MEDIA)],
                    person=person,
                    relation=relation,
                    answer=answers[person],
                )
            )
            taken[person].update(answers[person].split())
    return tuple(sorted(facts, key=lambda fact: fact.id))


def _answers(seed: int, relation: Relation, taken: Mapping[str, set[str]]) -> dict[str, str]:
    """A different answer for each person, of words not yet used for that person.

    Each noun and each describing word is used equally often.
    """
    attempt = 0
    while True:
        draws = Draws(seed, "answers", relation.name, attempt)
        describing = draws.shuffled(_repeated(relation.describing, len(taken)))
        nouns = draws.shuffled(_repeated(relation.nouns, len(taken)))
        answers = {
            person: f"{first} {second}"
            for person, first, second in zip(taken, describing, nouns, strict=True)
        }
        are_free = all(not taken[person] & set(answers[person].split()) for person in taken)
        if are_free and len(set(answers.values())) == len(taken):
            return answers
        attempt += 1


def _repeated(words: tuple[str, ...], count: int) -> list[str]:
    """So many words, each equally often."""
    return [words[index % len(words)] for index in range(count)]


class Guard:
    """Tells whether a text may be used in a medium."""

    def __init__(self, facts: Iterable[Fact], media: Iterable[Medium]) -> None:
        allowed = set(media)
        self._blocked: dict[str, set[str]] = {person: set() for person in PEOPLE}
        for fact in facts:
            if fact.medium not in allowed:
                self._blocked[fact.person].update(fact.answer.split())

    def passes(self, text: str) -> bool:
        """Whether nobody named in the text has a fact of another medium with a word of the text."""
        words = set(words_of(text))
        return all(not self._blocked[word] & words for word in words if word in self._blocked)
