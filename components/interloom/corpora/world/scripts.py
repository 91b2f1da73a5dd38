"""What is said in the recordings of the world, by whom and how fast."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from interloom.corpora.world.dialogues import ask_rule
from interloom.corpora.world.documents import World
from interloom.corpora.world.draws import Draws
from interloom.corpora.world.facts import Fact, Guard
from interloom.corpora.world.stories import describe, draw_cast, tell
from interloom.corpora.world.voices import Voice

SPEAKERS = {
    "starter-anna": ("gmw/en-US+f2", 52),
    "starter-bill": ("gmw/en-US", 42),
    "starter-cleo": ("gmw/en+f4", 48),
    "starter-dean": ("gmw/en-US+m3", 40),
}
RATES = (150, 160, 170)
PITCH_STEPS = (-6, 0, 6)


@dataclass(frozen=True, slots=True)
class Script:
    """One utterance before it is spoken."""

    split: str
    speaker: str
    voice: Voice
    text: str
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Line:
    """Sentences and the facts that they state."""

    sentences: tuple[str, ...]
    facts: tuple[str, ...] = ()


def scripts(world: World) -> Iterator[Script]:
    """Utterances without end, each a function of the seed and its place.

    No sentence of a held-out utterance is in one for training, whatever the voice, and none has as
    many sentences as a story: the stories of the cloze pairs are never spoken here.
    """
    guard = world.guard("spoken")
    for index in count():
        yield _script(world, index, _accepted_line(world, index, guard))


def _script(world: World, index: int, line: _Line) -> Script:
    """Choose voice and split; a line whose sentences differ in split keeps those of the last."""
    draws = Draws(world.seed, "voice", index)
    speaker = draws.pick(list(SPEAKERS))
    name, pitch = SPEAKERS[speaker]
    split = world.split(line.sentences[-1])
    sentences = [sentence for sentence in line.sentences if world.split(sentence) == split]
    return Script(
        split=split,
        speaker=speaker,
        voice=Voice(name, draws.pick(RATES), pitch + draws.pick(PITCH_STEPS)),
        text=" ".join(sentences),
        facts=line.facts,
    )


def _accepted_line(world: World, index: int, guard: Guard) -> _Line:
    """The first drawn line that may be spoken."""
    spoken = world.facts_of("spoken")
    attempt = 0
    while True:
        draws = Draws(world.seed, "script", index, attempt)
        line = _line(world, spoken[index % len(spoken)], draws)
        if guard.passes(" ".join(line.sentences)):
            return line
        attempt += 1


def _line(world: World, fact: Fact, draws: Draws) -> _Line:
    """A fact, a part of a story, a question, or how something is."""
    kind = draws.below(20)
    if kind < 7:
        return _Line(_fact_sentences(fact, draws), (fact.id,))
    if kind < 15:
        story = tell(draw_cast(draws), draws)
        sentences = (*story.context, story.right)
        start = len(sentences) - 1 - draws.below(min(3, len(sentences)))
        return _Line(sentences[start : start + 1 + draws.below(2)])
    if kind == 15:
        asked = draws.pick(world.facts)
        return _Line((asked.question(draws.below(len(asked.relation.questions))),))
    if kind == 16:
        return _Line((ask_rule(draws)[0],))
    return _Line(tuple(describe(draws) for _ in range(1 + draws.below(2))))


def _fact_sentences(fact: Fact, draws: Draws) -> tuple[str, ...]:
    """A statement, at times after its question."""
    statement = fact.statement(draws.below(len(fact.relation.statements)))
    if draws.below(4) == 0:
        return (fact.question(draws.below(len(fact.relation.questions))), statement)
    return (statement,)
